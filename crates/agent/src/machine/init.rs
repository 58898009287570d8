//! What PID 1 does, from the first mount to the end of the machine.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ferric_agent::{AgentError, AgentOptions, Exit};
use ferric_protocol::{
    BootData, NetworkPlan,
    net::{LinkKind, Mac},
};
use rustix::{rand::GetRandomFlags, system::RebootCommand};
use tokio_util::sync::CancellationToken;

use super::{
    boot_nic::boot_interface,
    console::{self, say},
    hardware::Machine,
    ipmi::Bmc,
    modules::Loader,
    mounts,
    neighbours::Neighbours,
    netlink::{Links, Nics},
    network::Network,
    sysfs,
};

/// Where the C library looks for servers of names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long a machine that cannot go on shows why, before it is switched off.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// Random numbers that take longer are told of.
const RANDOM_LATE: Duration = Duration::from_secs(10);
/// How long devices get to appear after the last module was loaded.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two looks for such devices.
const LOOK: Duration = Duration::from_millis(200);
/// How long the last sync may take.
const LAST_SYNC: Duration = Duration::from_secs(20);
/// How long a card may take to be switched off.
const LAST_LINK: Duration = Duration::from_secs(2);
/// Rounds of loading modules: a controller shows its disks only when its own module is there, and so on.
const ROUNDS: usize = 20;

/// Runs the machine. Off is the end wherever the agent cannot go on: the provider reads the power, sees that the boot
/// came to nothing, and boots anew; a machine that hung or restarted would be waited for.
pub(crate) fn run() -> ! {
    // A panic ends here, and not at the kernel, which would stand still.
    match std::panic::catch_unwind(|| -> std::convert::Infallible { start() }) {
        Ok(never) => match never {},
        Err(_) => give_up("the agent panicked"),
    }
}

fn start() -> ! {
    let mounted = mounts::base();
    console::open();
    say(&format!("version {}", env!("CARGO_PKG_VERSION")));
    std::panic::set_hook(Box::new(|panic| say(&format!("the agent failed: {panic}"))));
    if let Err(error) = mounted {
        give_up(&error.to_string());
    }
    let _ = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .with_writer(|| console::Log)
        .try_init();
    ready_random();
    let cmdline = sysfs::text("/proc/cmdline");
    let boot = match BootData::parse(&cmdline) {
        Ok(boot) => boot,
        Err(error) => give_up(&error.to_string()),
    };
    let plan = match NetworkPlan::parse(&cmdline) {
        Ok(plan) => plan,
        Err(error) => give_up(&error.to_string()),
    };
    let loader = load_modules(plan.as_ref());
    let bmc = Bmc::start(loader.as_ref().map(Loader::apart));
    if let Err(error) = mounts::efi_variables() {
        say(&error.to_string());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => give_up(&format!("no threads: {error}")),
    };
    // Caught while the runtime lives: its end would wait for a disk that does not answer.
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(live(boot, plan, boot_interface(&cmdline), loader, bmc))
    }));
    match lived {
        Ok(Ok(Exit::Kexec)) => {
            // No thread of it is to use a device that is being taken away.
            runtime.shutdown_timeout(LAST_SYNC);
            end(RebootCommand::Kexec, "starting the kernel of the written disk")
        }
        Ok(Ok(Exit::Reboot)) => end(RebootCommand::Restart, "restarting"),
        Ok(Ok(Exit::PowerOff | Exit::Cancelled)) => end(RebootCommand::PowerOff, "switching off"),
        Ok(Err(error)) => give_up(&error),
        Err(_) => give_up("the agent panicked"),
    }
}

/// Sees to it that the kernel has random numbers. Where the processor makes none and there is no other source, nothing begins
/// to make them but this system call: the kernel then takes the jitter of its clock, for a second or two
/// (`try_to_generate_entropy` in drivers/char/random.c). Others only wait for them: the `getrandom` crate, in a statically
/// linked program, polls `/dev/random`, and with it DHCP would wait for ever.
fn ready_random() {
    let thread = std::thread::Builder::new().name("random".to_owned());
    let asked = thread.spawn(|| {
        let began = std::time::Instant::now();
        while rustix::rand::getrandom(&mut [0; 1], GetRandomFlags::empty()) == Err(rustix::io::Errno::INTR) {}
        if began.elapsed() > RANDOM_LATE {
            say(&format!("random numbers were there after {} s only", began.elapsed().as_secs()));
        }
    });
    if let Err(error) = asked {
        say(&format!("random numbers may be late: no thread: {error}"));
    }
}

/// Network, then the agent.
async fn live(
    boot: BootData,
    plan: Option<NetworkPlan>,
    preferred: Option<Mac>,
    loader: Option<Loader>,
    bmc: Bmc,
) -> Result<Exit, String> {
    let settling = tokio::task::spawn_blocking(move || loader.into_iter().for_each(settle));
    tokio::pin!(settling);
    // An address takes as long as the last devices do; but a card that is still to come must not be missed.
    let mut settled = None;
    if !are_there(&cards(Path::new("/sys")), plan.as_ref(), preferred) {
        settled = Some((&mut settling).await);
    }
    let network = Network::open(Nics::Hardware, RESOLV_CONF)
        .map_err(|error| format!("the kernel's network cannot be used: {error}"))?;
    let neighbours = Neighbours::new();
    if let Err(error) = neighbours.listen(network.links()) {
        say(&format!("switches are not listened to: {error}"));
    }
    let used = network.bring_up(plan.as_ref(), preferred).await;
    // All disks belong to the inventory.
    let settled = match settled {
        Some(settled) => settled,
        None => settling.await,
    };
    settled.map_err(|error| format!("loading modules failed: {error}"))?;
    say(&format!("connecting to the provider at {}", boot.provider_url()));
    let boot_mac = preferred.or(used).map(|mac| mac.to_string()).unwrap_or_default();
    let machine = Arc::new(Machine { boot_mac, neighbours, bmc: Some(bmc) });
    let ended = ferric_agent::run(boot, machine, AgentOptions::default(), CancellationToken::new()).await;
    if matches!(ended, Ok(Exit::Kexec)) {
        switch_off(&network.links()).await;
    }
    ended.map_err(|error: AgentError| error.to_string())
}

/// Switches all cards off. Before another kernel is started this one takes its devices away while programs still run, and what
/// is sent then is waited for without end in some drivers (seen in `start_xmit` of virtio_net, of a socket being closed).
async fn switch_off(links: &Links) {
    for card in links.nics().cards() {
        let off = tokio::time::timeout(LAST_LINK, links.down(card.index)).await;
        if !matches!(off, Ok(Ok(()))) {
            say(&format!("{} could not be switched off", card.name));
        }
    }
}

/// Whether all cards that are named are there.
fn are_there(cards: &BTreeSet<String>, plan: Option<&NetworkPlan>, preferred: Option<Mac>) -> bool {
    let planned =
        plan.map(NetworkPlan::links).unwrap_or_default().iter().filter_map(|link| match link.kind {
            LinkKind::Nic { mac } => Some(mac),
            _ => None,
        });
    !cards.is_empty() && planned.chain(preferred).all(|mac| cards.contains(&mac.to_string()))
}

/// MAC addresses of the network cards, without what is made of software.
fn cards(sys: &Path) -> BTreeSet<String> {
    sysfs::entries(sys.join("class/net"))
        .iter()
        .filter(|path| path.join("device").exists())
        .map(|path| sysfs::text(path.join("address")).to_ascii_lowercase())
        .collect()
}

/// Goes on until nothing new has turned up for a while: disks and links appear some time after their driver.
fn settle(mut loader: Loader) {
    let mut quiet_since = Instant::now();
    for _ in 0..ROUNDS {
        std::thread::sleep(LOOK);
        if loader.round() {
            quiet_since = Instant::now();
        } else if quiet_since.elapsed() >= SETTLE {
            break;
        }
    }
    say(&format!("{} kernel modules loaded", loader.loaded()));
}

/// Loads what devices ask for until none asks for more, and what the network is to be made of.
fn load_modules(plan: Option<&NetworkPlan>) -> Option<Loader> {
    let Some(mut loader) = Loader::for_running_kernel() else {
        say("the initramfs has no modules for this kernel; going on with what is built in");
        return None;
    };
    for _ in 0..ROUNDS {
        if !loader.round() {
            break;
        }
    }
    let links = plan.map(NetworkPlan::links).unwrap_or_default();
    if links.iter().any(|link| matches!(link.kind, LinkKind::Bond { .. })) {
        // No bond but those that are asked for.
        loader.load_with("bonding", c"max_bonds=0");
    }
    if links.iter().any(|link| matches!(link.kind, LinkKind::Vlan { .. })) {
        loader.load_with("8021q", c"");
    }
    Some(loader)
}

fn give_up(why: &str) -> ! {
    say(&format!("cannot go on: {why}"));
    say(&format!("switching off in {} s; the provider boots this machine again", LAST_WORDS.as_secs()));
    std::thread::sleep(LAST_WORDS);
    end(RebootCommand::PowerOff, "switching off")
}

/// Ends the machine. All that was promised to be on the disk was synced when it was promised.
fn end(mut how: RebootCommand, what: &str) -> ! {
    say(what);
    // A disk that does not answer keeps this waiting for ever: it is not waited for.
    let (done, synced) = std::sync::mpsc::channel();
    // Without memory for a thread the machine ends all the same: what counts was synced before.
    let syncing = std::thread::Builder::new().name("sync".to_owned()).spawn(move || {
        rustix::fs::sync();
        let _ = done.send(());
    });
    if syncing.is_ok() {
        let _ = synced.recv_timeout(LAST_SYNC);
    }
    loop {
        if let Err(error) = rustix::system::reboot(how) {
            say(&format!("{what} failed: {error}"));
            if how == RebootCommand::Kexec {
                // The firmware starts the disk as well.
                how = RebootCommand::Restart;
                continue;
            }
        }
        std::thread::sleep(Duration::from_secs(5));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn cards_that_are_named_are_waited_for() {
        let set = |macs: &[&str]| macs.iter().map(|mac| (*mac).to_owned()).collect::<BTreeSet<_>>();
        let mac = |text: &str| Some(text.parse::<Mac>().unwrap());
        let both = set(&["52:54:00:00:00:01", "52:54:00:00:00:02"]);
        assert!(are_there(&both, None, None));
        assert!(!are_there(&set(&[]), None, None));
        assert!(are_there(&both, None, mac("52:54:00:00:00:02")));
        assert!(!are_there(&both, None, mac("52:54:00:00:00:03")));
        let plan = |mac: &str| NetworkPlan::parse(&format!("ferric.net={mac},10.0.0.5/24")).unwrap();
        assert!(are_there(&both, plan("52:54:00:00:00:01").as_ref(), None));
        assert!(!are_there(&both, plan("52:54:00:00:00:03").as_ref(), None));
    }
}
