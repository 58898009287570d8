//! Loads made by chance from published figures: the same order, the same load.

mod figures;

use ferric_api::autoscaling::{ActuationMode, NodeGroupAutoscalerSpec, TargetKind, TargetRef};
use jiff::Timestamp;

pub use figures::Figure;
use figures::{
    CODING, CONVERSATION, CPU_HOURS, CPU_SECONDS, CPU_SIZES, GPU_HOURS, GPU_SECONDS, GPU_SIZES, Quantiles,
};

use super::load::{Arrival, Boot, Kind, Load, Rack, Service, Size};
use crate::autoscaling::schedule::cases::Dice;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// When loads begin: Monday 2026-01-05, midnight UTC, in Unix time.
const START: i64 = 1_767_571_200;
/// What does not count at the beginning, in seconds.
const WARM_UP: i64 = 6 * HOUR;
/// Kubernetes' default `terminationGracePeriodSeconds`.
const DRAIN: i64 = 30;
/// Chosen: how long a host is wiped, in seconds.
const WIPE: i64 = 120;
/// Memory that is asked for with a processor of a rack: 4 GiB.
const MEBIBYTES_PER_CPU: i64 = 4096;

/// Kinds of loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Services that follow the hours of the week.
    Diurnal,
    /// Jobs of many pods at once.
    Batch,
    /// Training jobs on GPUs, and tasks without.
    Gpu,
}

/// What load is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Of what kind.
    pub shape: Shape,
    /// How many days, the warm-up included.
    pub days: u32,
    /// The same seed, the same load.
    pub seed: u64,
    /// How long a host takes to be a node, in seconds; from 70 to 130 per cent of it.
    pub boot_seconds: u32,
}

/// All figures that loads of a kind are made from.
#[must_use]
pub fn figures(shape: Shape) -> Vec<Figure> {
    let own = match shape {
        Shape::Diurnal => figures::OF_DIURNAL,
        Shape::Batch => figures::OF_BATCH,
        Shape::Gpu => figures::OF_GPU,
    };
    own.iter().chain(figures::OF_ALL).copied().collect()
}

impl Order {
    /// The load.
    #[must_use]
    pub fn load(&self) -> Load {
        let boot = i64::from(self.boot_seconds);
        let boot = Boot { least: boot * 7 / 10, most: boot * 13 / 10 };
        let mut load = Load {
            start: Timestamp::from_second(START).unwrap_or(Timestamp::UNIX_EPOCH),
            seconds: i64::from(self.days) * DAY,
            warm_up: WARM_UP,
            racks: Vec::new(),
            kinds: Vec::new(),
            arrivals: Vec::new(),
            services: Vec::new(),
            drain_seconds: DRAIN,
            wipe_seconds: WIPE,
        };
        let mut dice = Dice::new(self.seed);
        match self.shape {
            Shape::Diurnal => diurnal(&mut load, boot, &mut dice),
            Shape::Batch => batch(&mut load, boot, &mut dice),
            Shape::Gpu => gpu(&mut load, boot, &mut dice),
        }
        load.arrivals.sort_by_key(|arrival| arrival.at);
        load
    }
}

fn diurnal(load: &mut Load, boot: Boot, dice: &mut Dice) {
    /// Replicas at the highest hour.
    const MOST: i64 = 120;
    /// How often the number of replicas is looked at, and for how long the most that was wanted stays, in seconds.
    const STEP: i64 = 60;
    const WINDOW: usize = 5;
    /// Noise, in per cent.
    const NOISE: i64 = 5;
    for name in ["cpu-a", "cpu-b", "cpu-c"] {
        load.racks.push(rack(name, 12, cpus(32), boot));
    }
    for (name, curve) in [("coding", &CODING), ("conversation", &CONVERSATION)] {
        let kind = load.kinds.len();
        let size = Size { milli: 4000, mebibytes: 8192, gpus: 0 };
        load.kinds.push(Kind { name: name.to_owned(), size, stays: false });
        let mut wanted: Vec<usize> = Vec::new();
        let mut replicas: Vec<(i64, usize)> = Vec::new();
        for at in (0..load.seconds).step_by(STEP as usize) {
            // Between the middles of two hours, in a straight line.
            let (hour, within) = ((at - HOUR / 2).div_euclid(HOUR), (at - HOUR / 2).rem_euclid(HOUR));
            let of = |hour: i64| i64::from(curve[usize::try_from(hour.rem_euclid(168)).unwrap_or(0)]);
            let level = of(hour) * (HOUR - within) + of(hour + 1) * within;
            let noise = 100 - NOISE + i64::try_from(dice.below(2 * NOISE as u64 + 1)).unwrap_or(0);
            let now = (MOST * level * noise).div_euclid(HOUR * 1000 * 100) + 1;
            wanted.push(usize::try_from(now).unwrap_or(1));
            let from = wanted.len().saturating_sub(WINDOW);
            let most = wanted[from..].iter().copied().max().unwrap_or(1);
            if replicas.last().is_none_or(|(_, last)| *last != most) {
                replicas.push((at, most));
            }
        }
        load.services.push(Service { kind, replicas });
    }
}

fn batch(load: &mut Load, boot: Boot, dice: &mut Dice) {
    /// Jobs on a mean day.
    const JOBS: u64 = 110;
    for name in ["cpu-a", "cpu-b", "cpu-c"] {
        load.racks.push(rack(name, 10, cpus(64), boot));
    }
    let kinds = cpu_kinds(load);
    let sizes = zipf();
    for at in arrivals(load.seconds, JOBS, &CPU_HOURS, dice) {
        let (kind, runs) = (pick(&kinds, dice), time(CPU_SECONDS, dice));
        // Pods of one job run for about as long: from 80 to 120 per cent.
        for _ in 0..size_of_job(&sizes, dice) {
            let runs = runs * (80 + i64::try_from(dice.below(41)).unwrap_or(0)) / 100;
            load.arrivals.push(Arrival { at, kind, runs: runs.max(1) });
        }
    }
}

fn gpu(load: &mut Load, boot: Boot, dice: &mut Dice) {
    /// Jobs on a mean day.
    const JOBS: u64 = 400;
    /// Tasks of the trace without a GPU, and all.
    const WITHOUT: (u64, u64) = (1088, 8152);
    load.racks.push(rack("cpu-a", 8, cpus(64), boot));
    for name in ["gpu-a", "gpu-b"] {
        load.racks.push(rack(name, 6, Size { milli: 96_000, mebibytes: 393_216, gpus: 8 }, boot));
    }
    let without = cpu_kinds(load);
    let mut with = Vec::new();
    for (count, milli, mebibytes, gpus) in GPU_SIZES.iter().copied() {
        with.push((count, load.kinds.len()));
        let name = format!("gpu-{gpus}-{milli}m");
        load.kinds.push(Kind { name, size: Size { milli, mebibytes, gpus }, stays: true });
    }
    let cpu_jobs = JOBS * WITHOUT.0 / WITHOUT.1;
    for at in arrivals(load.seconds, cpu_jobs, &CPU_HOURS, dice) {
        let (kind, runs) = (pick(&without, dice), time(CPU_SECONDS, dice));
        load.arrivals.push(Arrival { at, kind, runs });
    }
    for at in arrivals(load.seconds, JOBS - cpu_jobs, &GPU_HOURS, dice) {
        let (kind, runs) = (pick(&with, dice), time(GPU_SECONDS, dice));
        load.arrivals.push(Arrival { at, kind, runs });
    }
}

fn cpus(count: i64) -> Size {
    Size { milli: count * 1000, mebibytes: count * MEBIBYTES_PER_CPU, gpus: 0 }
}

/// A rack with an autoscaler that has all its defaults.
fn rack(name: &str, hosts: i32, size: Size, boot: Boot) -> Rack {
    let spec = NodeGroupAutoscalerSpec {
        cluster_name: "replay".to_owned(),
        scale_target_ref: TargetRef {
            api_group: "cluster.x-k8s.io".to_owned(),
            kind: TargetKind::MachineDeployment,
            name: name.to_owned(),
        },
        actuation_mode: ActuationMode::Direct,
        max_replicas: hosts,
        ..NodeGroupAutoscalerSpec::default()
    };
    Rack { name: name.to_owned(), hosts, size, boot, spec }
}

/// Adds kinds of pods without GPUs: how common each is, and which kind it is.
fn cpu_kinds(load: &mut Load) -> Vec<(u64, usize)> {
    let add = |(count, milli, mebibytes): (u64, i64, i64)| {
        let name = format!("cpu-{milli}m");
        load.kinds.push(Kind { name, size: Size { milli, mebibytes, gpus: 0 }, stays: false });
        (count, load.kinds.len() - 1)
    };
    CPU_SIZES.iter().copied().map(add).collect()
}

/// One of these, by how common each is.
fn pick(from: &[(u64, usize)], dice: &mut Dice) -> usize {
    let mut at = dice.below(from.iter().map(|(count, _)| count).sum());
    for (count, kind) in from {
        match at.checked_sub(*count) {
            None => return *kind,
            Some(rest) => at = rest,
        }
    }
    0
}

/// A number from 0 to 1, without its end.
fn part(dice: &mut Dice) -> f64 {
    (dice.bits() >> 11) as f64 / (1u64 << 53) as f64
}

/// A time from a distribution, in seconds: between its quantiles evenly by their logarithms.
fn time(quantiles: Quantiles, dice: &mut Dice) -> i64 {
    let at = part(dice) * 100.0;
    let above =
        quantiles.iter().position(|(percent, _)| f64::from(*percent) > at).unwrap_or(quantiles.len() - 1);
    let ((from, least), (to, most)) = (quantiles[above.saturating_sub(1)], quantiles[above]);
    let share = (at - f64::from(from)) / f64::from(to - from).max(1.0);
    let (least, most) = ((least.max(1) as f64).ln(), (most.max(1) as f64).ln());
    ((least + (most - least) * share).exp().round() as i64).max(1)
}

/// Moments at which something comes, so many on a mean day, in the proportions of the hours of a day.
fn arrivals(seconds: i64, per_day: u64, hours: &[u16; 24], dice: &mut Dice) -> Vec<i64> {
    let all: f64 = hours.iter().map(|share| f64::from(*share)).sum();
    let rate = |hour: i64| {
        let share = f64::from(hours[usize::try_from(hour.rem_euclid(24)).unwrap_or(0)]);
        per_day as f64 * share / all / HOUR as f64
    };
    // By thinning (Lewis and Shedler 1979): as often as in the fullest hour, and of these as many as the hour has.
    let most = (0..24).map(rate).fold(0.0, f64::max);
    let (mut at, mut found) = (0.0, Vec::new());
    loop {
        at += -(1.0 - part(dice)).ln() / most;
        if most <= 0.0 || at >= seconds as f64 {
            return found;
        }
        if part(dice) * most < rate((at / HOUR as f64) as i64) {
            found.push(at as i64);
        }
    }
}

/// How many of a million jobs have at most so many pods.
fn zipf() -> Vec<u64> {
    /// Zipf's exponent, and the largest job.
    const EXPONENT: f64 = 1.5;
    const LARGEST: u32 = 100;
    let weights: Vec<f64> = (1..=LARGEST).map(|pods| f64::from(pods).powf(-EXPONENT)).collect();
    let all: f64 = weights.iter().sum();
    let mut sum = 0.0;
    let share = |weight: &f64| {
        sum += weight;
        (sum / all * 1e6) as u64
    };
    weights.iter().map(share).collect()
}

fn size_of_job(sizes: &[u64], dice: &mut Dice) -> usize {
    let at = dice.below(1_000_000);
    sizes.partition_point(|up_to| *up_to <= at).min(sizes.len() - 1) + 1
}
