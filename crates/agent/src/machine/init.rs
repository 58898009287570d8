//! What PID 1 does, from the first mount to the end of the machine.

use std::{sync::Arc, time::Duration};

use ferric_agent::{AgentError, AgentOptions, Exit};
use ferric_protocol::{
    BootData, NetworkPlan,
    net::{LinkKind, Mac},
};
use rustix::system::RebootCommand;
use tokio_util::sync::CancellationToken;

use super::{
    boot_nic::boot_interface,
    console::{self, say},
    hardware::Machine,
    modules::Loader,
    mounts,
    neighbours::Neighbours,
    netlink::Nics,
    network::Network,
    sysfs,
};

/// Where the C library looks for servers of names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long a machine that cannot go on shows why, before it is switched off.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// How long devices get to appear after the last module was loaded.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the last sync may take.
const LAST_SYNC: Duration = Duration::from_secs(20);
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
    let cmdline = sysfs::text("/proc/cmdline");
    let boot = match BootData::parse(&cmdline) {
        Ok(boot) => boot,
        Err(error) => give_up(&error.to_string()),
    };
    let plan = match NetworkPlan::parse(&cmdline) {
        Ok(plan) => plan,
        Err(error) => give_up(&error.to_string()),
    };
    load_modules(plan.as_ref());
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
        runtime.block_on(live(boot, plan, boot_interface(&cmdline)))
    }));
    match lived {
        Ok(Ok(Exit::Reboot)) => end(RebootCommand::Restart, "restarting"),
        Ok(Ok(Exit::PowerOff | Exit::Cancelled)) => end(RebootCommand::PowerOff, "switching off"),
        Ok(Err(error)) => give_up(&error),
        Err(_) => give_up("the agent panicked"),
    }
}

/// Network, then the agent.
async fn live(boot: BootData, plan: Option<NetworkPlan>, preferred: Option<Mac>) -> Result<Exit, String> {
    let network = Network::open(Nics::Hardware, RESOLV_CONF)
        .map_err(|error| format!("the kernel's network cannot be used: {error}"))?;
    let neighbours = Neighbours::new();
    if let Err(error) = neighbours.listen(network.links()) {
        say(&format!("switches are not listened to: {error}"));
    }
    let used = network.bring_up(plan.as_ref(), preferred).await;
    say(&format!("connecting to the provider at {}", boot.provider_url()));
    let boot_mac = preferred.or(used).map(|mac| mac.to_string()).unwrap_or_default();
    let machine = Arc::new(Machine { boot_mac, neighbours });
    let ended = ferric_agent::run(boot, machine, AgentOptions::default(), CancellationToken::new()).await;
    ended.map_err(|error: AgentError| error.to_string())
}

/// Loads what devices ask for until nothing new turns up, and what the network is to be made of.
fn load_modules(plan: Option<&NetworkPlan>) {
    let Some(mut loader) = Loader::for_running_kernel() else {
        say("the initramfs has no modules for this kernel; going on with what is built in");
        return;
    };
    let mut quiet_since = None;
    for _ in 0..ROUNDS {
        if loader.round() {
            quiet_since = None;
            continue;
        }
        let since = *quiet_since.get_or_insert_with(std::time::Instant::now);
        if since.elapsed() >= SETTLE {
            break;
        }
        // Disks and links appear some time after their driver.
        std::thread::sleep(Duration::from_millis(200));
    }
    let links = plan.map(NetworkPlan::links).unwrap_or_default();
    if links.iter().any(|link| matches!(link.kind, LinkKind::Bond { .. })) {
        // No bond but those that are asked for.
        loader.load_with("bonding", c"max_bonds=0");
    }
    if links.iter().any(|link| matches!(link.kind, LinkKind::Vlan { .. })) {
        loader.load_with("8021q", c"");
    }
    say(&format!("{} kernel modules loaded", loader.loaded()));
}

fn give_up(why: &str) -> ! {
    say(&format!("cannot go on: {why}"));
    say(&format!("switching off in {} s; the provider boots this machine again", LAST_WORDS.as_secs()));
    std::thread::sleep(LAST_WORDS);
    end(RebootCommand::PowerOff, "switching off")
}

/// Ends the machine. All that was promised to be on the disk was synced when it was promised.
fn end(how: RebootCommand, what: &str) -> ! {
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
        }
        std::thread::sleep(Duration::from_secs(5));
    }
}
