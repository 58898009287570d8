//! Operations that are run in the background on a host: what they are, and what is said of them while they run.

use ferric_bmc::{PowerAction, PowerState};

/// One operation on a BMC, run in the background: it is started, and its outcome observed later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Log in and read facts.
    Probe,
    /// Read the hardware.
    Inspect,
    /// Read the power.
    ReadPower,
    /// Set what the next boot starts from: the agent, by the boot of this number.
    BootAgent(i64),
    /// Set what the next boot starts from: the disk.
    BootDisk,
    /// Set what each boot starts from: the live ISO that is asked for.
    BootLiveIso,
    /// Set what each boot starts from: the kernel that is asked for, which runs from memory.
    BootKernel,
    /// Change the power and read it back.
    Power(PowerAction),
    /// Read the Secret with the network of the host's agent. The BMC has no part in it.
    ReadNetwork,
    /// Read what the BMC says of itself.
    ReadManager,
}

impl Job {
    /// What is waited for while it runs, for people. `wakes_only`: the server has no BMC, and nobody answers.
    pub fn describe(&self, wakes_only: bool) -> String {
        match self {
            Self::Probe if wakes_only => "the settings of Wake-on-LAN to be checked".to_owned(),
            Self::Probe => "the BMC to answer with its facts".to_owned(),
            Self::Inspect => "the BMC to list the hardware".to_owned(),
            Self::ReadPower => "the BMC to say whether the server is on".to_owned(),
            // Nothing is told to a server without a BMC: it asks, when its firmware starts from the network.
            Self::BootAgent(n) if wakes_only => {
                format!("agent boot {n} to be prepared for the server to ask for")
            }
            Self::BootAgent(n) => format!("the BMC to take the boot settings of agent boot {n}"),
            Self::BootDisk if wakes_only => {
                "the disk to be prepared as what the server is sent to when it asks".to_owned()
            }
            Self::BootDisk => "the BMC to take the boot settings of the disk".to_owned(),
            Self::BootLiveIso => "the BMC to insert the live ISO".to_owned(),
            Self::BootKernel => {
                "the BMC to take the boot settings of the system that runs from memory".to_owned()
            }
            Self::Power(PowerAction::On) if wakes_only => {
                "the magic packets to be sent that wake the server".to_owned()
            }
            Self::Power(PowerAction::On) => "the server to be read as powered on".to_owned(),
            Self::Power(PowerAction::ForceOff | PowerAction::GracefulShutdown) => {
                "the server to be read as powered off".to_owned()
            }
            Self::Power(_) => "the server to restart".to_owned(),
            Self::ReadNetwork => "the network data of the agent to be read".to_owned(),
            Self::ReadManager => "the BMC to say what it is itself".to_owned(),
        }
    }

    /// Whether it changes what the server does.
    pub fn changes_something(&self) -> bool {
        match self {
            Self::BootAgent(_) | Self::BootDisk | Self::BootLiveIso | Self::BootKernel | Self::Power(_) => {
                true
            }
            Self::Probe | Self::Inspect | Self::ReadPower | Self::ReadNetwork | Self::ReadManager => false,
        }
    }
}

/// The power that a change of it leads to.
pub fn aim(action: PowerAction) -> PowerState {
    match action {
        PowerAction::On | PowerAction::ForceRestart | PowerAction::PowerCycle => PowerState::On,
        PowerAction::ForceOff | PowerAction::GracefulShutdown => PowerState::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_true_with_a_bmc_and_without() {
        for (job, with, without) in [
            (Job::Probe, "the BMC to answer", "the settings of Wake-on-LAN"),
            (
                Job::BootAgent(3),
                "the BMC to take the boot settings of agent boot 3",
                "agent boot 3 to be prepared",
            ),
            (Job::BootDisk, "the BMC to take the boot settings of the disk", "the disk to be prepared"),
            (
                Job::Power(PowerAction::On),
                "the server to be read as powered on",
                "the magic packets to be sent",
            ),
            (Job::ReadNetwork, "the network data", "the network data"),
        ] {
            let (said, blind) = (job.describe(false), job.describe(true));
            assert!(said.starts_with(with) && blind.starts_with(without), "{said}; {blind}");
            assert!(!blind.contains("BMC") && !blind.contains("read as"), "{job:?}: {blind}");
        }
        // What is not done to a server without a BMC is told of those with one.
        for (job, with) in [
            (Job::Inspect, "the BMC to list the hardware"),
            (Job::ReadPower, "the BMC to say whether the server is on"),
            (Job::BootLiveIso, "the BMC to insert the live ISO"),
            (Job::BootKernel, "the BMC to take the boot settings of the system that runs from memory"),
            (Job::Power(PowerAction::ForceOff), "the server to be read as powered off"),
            (Job::Power(PowerAction::GracefulShutdown), "the server to be read as powered off"),
            (Job::Power(PowerAction::ForceRestart), "the server to restart"),
            (Job::Power(PowerAction::PowerCycle), "the server to restart"),
            (Job::ReadManager, "the BMC to say what it is itself"),
        ] {
            assert_eq!(job.describe(false), with);
        }
    }
}
