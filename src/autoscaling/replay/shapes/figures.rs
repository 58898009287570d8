//! Figures of public cluster traces, and where each is from; what could not be found is chosen, and says so.
//!
//! None of it is a trace: loads are made by chance from these figures, so they are synthetic. Where a source publishes
//! data and no figure, the figure was computed from the data named, as said beside it.

/// A figure and its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Figure {
    /// What it says.
    pub what: &'static str,
    /// Where it is from: a publication, or that it is chosen.
    pub source: &'static str,
}

/// Chosen by us.
const CHOSEN: &str = "chosen, no published figure";
/// Two services of Azure over a week.
const AZURE: &str = "Azure LLM inference trace 2024 (Azure/AzurePublicDataset, CC BY 4.0; Stojkovic et al., DynamoLLM, HPCA 2025): \
     invocations per minute as plotted in analysis/AzureLLMInferenceDataset2024.ipynb, read off the plots by the hour";
/// Tasks of a production cluster of Alibaba.
const OPENB: &str = "Alibaba cluster-trace-gpu-v2023, csv/openb_pod_list_default.csv (Weng et al., Beware of Fragmentation, USENIX ATC \
     2023), computed from the file";
/// Nodes of that cluster.
const OPENB_NODES: &str = "Alibaba cluster-trace-gpu-v2023, csv/openb_node_list_all_node.csv (Weng et al., USENIX ATC 2023), computed from the file";
/// Training jobs of Microsoft.
const PHILLY: &str = "Microsoft Philly trace (Jeon et al., Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training \
     Workloads, USENIX ATC 2019), run times as published in Alibaba cluster-trace-gpu-v2020, analysis/philly_runtime.csv, \
     computed from the file";
/// Batch jobs of Alibaba.
const JIANG: &str = "Jiang et al., Characterizing Co-Located Workloads in Alibaba Cloud Datacenters (cluster-trace-v2018), IEEE \
     Transactions on Cloud Computing 2022, abstract, finding 2";

/// Of the load `diurnal`.
pub(super) const OF_DIURNAL: &[Figure] = &[
    Figure {
        what: "two services, each by the hour of a week (about 10 to 1 and 2 to 1 on working days)",
        source: AZURE,
    },
    Figure { what: "replicas follow the curve, 120 each at its highest hour, 5 % noise", source: CHOSEN },
    Figure { what: "a replica asks for 4 processors and 8 GiB", source: CHOSEN },
    Figure {
        what: "fewer replicas only after 300 s: HorizontalPodAutoscaler's default window downwards",
        source: HPA,
    },
    Figure { what: "3 racks of 12 hosts with 32 processors and 128 GiB", source: CHOSEN },
];
/// Kubernetes' own default.
const HPA: &str = "Kubernetes documentation, Horizontal Pod Autoscaling, Default Behavior";

/// Of the load `batch`.
pub(super) const OF_BATCH: &[Figure] = &[
    Figure {
        what: "run times, from 94 s (5 of 100) over 496 s (half) to 28,368 s (99 of 100), of tasks without a GPU",
        source: OPENB,
    },
    Figure {
        what: "what they ask for: the five commonest pairs of processors and memory, 94 of 100 tasks",
        source: OPENB,
    },
    Figure { what: "arrivals by the hour of the day", source: OPENB },
    Figure { what: "pods of a job are distributed as Zipf says", source: JIANG },
    Figure { what: "its exponent 1.5, at most 100 pods; 110 jobs a day", source: CHOSEN },
    Figure { what: "3 racks of 10 hosts with 64 processors and 256 GiB", source: CHOSEN },
];

/// Of the load `gpu`.
pub(super) const OF_GPU: &[Figure] = &[
    Figure {
        what: "run times of training jobs, from 48 s (5 of 100) over 1186 s (half) to 49,969 s (95 of 100)",
        source: PHILLY,
    },
    Figure { what: "none longer than a day (3.5 of 100 in the trace are)", source: CHOSEN },
    Figure {
        what: "GPUs of a job: 6989 of 7064 have one or a part, 16 two, 15 four, 44 eight",
        source: OPENB,
    },
    Figure { what: "processors and memory beside them: the commonest of each number of GPUs", source: OPENB },
    Figure { what: "a part of a GPU counts as one; jobs are not to be evicted", source: CHOSEN },
    Figure { what: "tasks without a GPU, 1088 of 8152, as in the load batch, one pod each", source: OPENB },
    Figure { what: "arrivals by the hour of the day", source: OPENB },
    Figure { what: "400 a day", source: CHOSEN },
    Figure {
        what: "GPU hosts with 96 processors, 384 GiB and 8 GPUs: the commonest, 549 of 1523",
        source: OPENB_NODES,
    },
    Figure {
        what: "2 racks of 6 of these, and one of 8 hosts with 64 processors and 256 GiB",
        source: CHOSEN,
    },
];

/// Of all loads.
pub(super) const OF_ALL: &[Figure] = &[
    Figure { what: "a host takes 420 to 780 s to be a node (--boot-seconds 600)", source: CHOSEN },
    Figure {
        what: "a drained pod ends within 30 s: terminationGracePeriodSeconds",
        source: "Kubernetes documentation, Pod Lifecycle",
    },
    Figure { what: "a host that was given back is wiped for 120 s", source: CHOSEN },
    Figure { what: "the first 6 hours do not count", source: CHOSEN },
];

/// "Coding" by the hour of the week, from Monday midnight (UTC) on, in thousandths of its largest hour.
#[rustfmt::skip]
pub(super) const CODING: [u16; 168] = [
    217, 221, 217, 191, 166, 130, 107, 104, 96, 96, 95, 151, 254, 478, 671, 757, 720, 812, 891, 923, 852, 666, 519, 367,
    330, 348, 309, 213, 178, 142, 116, 94, 88, 105, 111, 166, 314, 572, 797, 790, 704, 870, 979, 982, 886, 640, 471, 362,
    328, 296, 271, 246, 184, 144, 131, 103, 102, 91, 117, 162, 296, 516, 688, 767, 778, 853, 967, 1000, 954, 684, 443, 353,
    305, 268, 286, 225, 173, 150, 138, 109, 101, 106, 107, 169, 327, 482, 711, 757, 736, 852, 940, 955, 845, 612, 439, 353,
    250, 258, 226, 191, 153, 130, 109, 98, 84, 94, 98, 131, 238, 393, 580, 644, 589, 677, 697, 718, 685, 514, 374, 249,
    201, 183, 158, 155, 129, 103, 86, 64, 48, 38, 33, 56, 85, 115, 140, 155, 170, 192, 204, 206, 186, 169, 188, 161,
    157, 166, 152, 145, 124, 100, 79, 50, 40, 41, 42, 47, 72, 93, 119, 143, 154, 155, 182, 187, 212, 221, 204, 201,
];

/// "Conversation" by the hour of the week, from Monday midnight (UTC) on, in thousandths of its largest hour.
#[rustfmt::skip]
pub(super) const CONVERSATION: [u16; 168] = [
    585, 661, 665, 548, 551, 600, 685, 728, 765, 712, 702, 746, 798, 896, 999, 931, 821, 772, 759, 745, 707, 567, 554, 586,
    649, 675, 694, 568, 570, 607, 705, 783, 768, 751, 704, 768, 873, 931, 1000, 937, 860, 805, 857, 786, 710, 629, 538, 511,
    603, 652, 623, 523, 541, 587, 666, 719, 735, 745, 679, 717, 815, 890, 909, 865, 778, 742, 767, 725, 630, 486, 459, 515,
    600, 692, 659, 554, 544, 603, 736, 771, 836, 792, 632, 668, 763, 893, 918, 810, 755, 745, 742, 678, 606, 533, 466, 524,
    624, 664, 644, 531, 550, 610, 674, 736, 714, 714, 634, 644, 709, 773, 781, 740, 680, 665, 588, 552, 516, 437, 362, 348,
    350, 372, 387, 309, 317, 335, 339, 371, 392, 339, 385, 420, 466, 463, 509, 516, 497, 454, 415, 396, 413, 385, 350, 337,
    338, 358, 340, 302, 285, 290, 301, 343, 344, 333, 331, 378, 388, 486, 453, 477, 439, 459, 464, 428, 410, 408, 386, 463,
];

/// A distribution: values that so many of 100 do not exceed.
pub(super) type Quantiles = &'static [(u8, i64)];

/// Run times of tasks without a GPU, in seconds (1052 tasks; what ran on at the end of the trace is left out by ending at 99).
pub(super) const CPU_SECONDS: Quantiles = &[
    (0, 33),
    (5, 94),
    (10, 141),
    (25, 151),
    (50, 496),
    (75, 1949),
    (90, 13_219),
    (95, 19_837),
    (100, 28_368),
];

/// Run times of training jobs, in seconds (83,154 jobs), cut off at a day.
pub(super) const GPU_SECONDS: Quantiles = &[
    (0, 10),
    (5, 48),
    (10, 61),
    (25, 131),
    (50, 1186),
    (75, 3342),
    (90, 12_860),
    (95, 49_969),
    (97, 86_400),
    (100, 86_400),
];

/// Arrivals of tasks without a GPU by the hour of the day, in hundredths of the mean hour (1086 tasks of 34 days).
pub(super) const CPU_HOURS: [u16; 24] = [
    177, 177, 146, 97, 104, 57, 69, 126, 62, 31, 35, 27, 24, 53, 38, 232, 64, 119, 119, 106, 49, 137, 157,
    194,
];

/// The same of tasks with GPUs (7039 tasks of 34 days).
pub(super) const GPU_HOURS: [u16; 24] = [
    147, 128, 101, 133, 129, 99, 88, 93, 73, 45, 70, 65, 48, 43, 41, 56, 92, 126, 169, 142, 111, 125, 121,
    153,
];

/// What tasks without a GPU ask for: how many, thousandths of a processor, mebibytes.
pub(super) const CPU_SIZES: &[(u64, i64, i64)] = &[
    (364, 12_500, 57_344),
    (284, 32_000, 49_152),
    (163, 8000, 30_517),
    (120, 15_400, 51_200),
    (95, 16_500, 51_200),
];

/// What tasks with GPUs ask for: how many, thousandths of a processor, mebibytes, GPUs. Of one GPU the six commonest, scaled
/// to all 6989; of two, four and eight the commonest.
pub(super) const GPU_SIZES: &[(u64, i64, i64, i64)] = &[
    (2472, 3152, 5600, 1),
    (1331, 11_300, 49_152, 1),
    (1208, 11_908, 47_104, 1),
    (829, 11_400, 48_128, 1),
    (754, 8000, 30_517, 1),
    (395, 18_708, 64_512, 1),
    (16, 16_200, 66_560, 2),
    (15, 32_200, 132_096, 4),
    (44, 88_000, 327_680, 8),
];
