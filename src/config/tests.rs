#![allow(clippy::unwrap_used)]

use clap::Parser;
use rstest::rstest;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

const URLS: [&str; 2] = ["--boot-url=http://10.0.0.1:6180", "--agent-url=https://10.0.0.1:6183/"];

fn parse(arguments: &[&str]) -> Result<Options, String> {
    let arguments = std::iter::once("ferric").chain(arguments.iter().copied());
    Cli::try_parse_from(arguments).map(|cli| cli.options).map_err(|e| e.to_string())
}

fn check(arguments: &[&str]) -> Result<Options, String> {
    let all: Vec<&str> = URLS.iter().chain(arguments).copied().collect();
    let options = parse(&all)?;
    options.validate().map_err(|e| e.to_string())?;
    Ok(options)
}

#[test]
fn defaults_are_sound() {
    let options = check(&[]).unwrap();
    assert!(options.leader_elect);
    assert_eq!(options.image_cache_size, ByteSize(20 << 30));
    assert_eq!(options.power_poll(), Some(Duration::from_secs(300)));
    assert_eq!(options.agent_base().unwrap(), "https://10.0.0.1:6183");
    assert_eq!(options.selector(), None);
    assert_eq!(options.lease_namespace(), options.identity_namespace);
}

#[rstest]
#[case(&["--leader-elect"], true)]
#[case(&["--leader-elect=true"], true)]
#[case(&["--leader-elect=false"], false)]
fn leader_elect_is_written_as_in_go(#[case] arguments: &[&str], #[case] expected: bool) {
    assert_eq!(check(arguments).unwrap().leader_elect, expected);
}

#[test]
fn the_watch_filter_is_a_label() {
    let options = check(&["--watch-filter=blue"]).unwrap();
    assert_eq!(options.selector().as_deref(), Some("cluster.x-k8s.io/watch-filter=blue"));
}

#[test]
fn discovery_needs_dhcp_and_a_namespace_that_is_watched() {
    let dhcp = ["--agent-image-dir=/images", "--dhcp-mode=proxy", "--dhcp-interface=eth0"];
    let with = |more: &[&str]| check(&[&dhcp[..], more].concat());
    assert_eq!(check(&[]).unwrap().network_boot.discover_hosts_in, None);
    assert_eq!(with(&[]).unwrap().network_boot.discover_hosts_in, None, "not unless it is asked for");
    let asked = with(&["--discover-hosts-in=racks", "--namespace=racks"]).unwrap();
    assert_eq!(asked.network_boot.discover_hosts_in.as_deref(), Some("racks"));
    assert!(with(&["--discover-hosts-in="]).is_err(), "only a manifest leaves it empty");
    for (error, expected) in [
        (check(&["--discover-hosts-in=racks"]).unwrap_err(), "give --dhcp-mode"),
        (with(&["--discover-hosts-in=racks", "--namespace=other"]).unwrap_err(), "would not be seen"),
        (with(&["--discover-hosts-in=Racks"]).unwrap_err(), "cannot be a namespace"),
    ] {
        assert!(error.contains("--discover-hosts-in") && error.contains(expected), "{error}");
    }
}

#[test]
fn empty_is_not_given() {
    let options =
        parse(&["--namespace=", "--watch-filter=", "--leader-election-namespace="]).unwrap().normalised();
    assert_eq!(
        (options.namespace, options.watch_filter, options.leader_election_namespace),
        (None, None, None)
    );
}

#[rstest]
#[case("0", Bind::Off)]
#[case(":8080", Bind::At(([0, 0, 0, 0], 8080).into()))]
#[case("127.0.0.1:1", Bind::At(([127, 0, 0, 1], 1).into()))]
fn bind_addresses(#[case] text: &str, #[case] expected: Bind) {
    assert_eq!(text.parse(), Ok(expected));
}

#[rstest]
#[case("0", 0)]
#[case("4096", 4096)]
#[case("20Gi", 20 << 30)]
#[case("3Ki", 3072)]
#[case("1Ti", 1 << 40)]
fn sizes(#[case] text: &str, #[case] expected: u64) {
    let size: ByteSize = text.parse().unwrap();
    assert_eq!(size.0, expected);
    assert_eq!(size.to_string().parse(), Ok(size));
}

#[rstest]
#[case("")]
#[case("Gi")]
#[case("20G")]
#[case("-1")]
#[case("1.5Gi")]
#[case("2Gi0")]
#[case("99999999999Ti")]
fn bad_sizes(#[case] text: &str) {
    text.parse::<ByteSize>().unwrap_err();
}

/// Each message names the flag, the cause and the remedy.
#[rstest]
#[case(&["--retry-period-seconds=0"], "--retry-period-seconds: 0 would never pause; give 1 or more")]
#[case(&["--renew-deadline-seconds=2"],
       "--renew-deadline-seconds: 2 s leave no time for a second attempt every 2 s; give more than --retry-period-seconds")]
#[case(&["--lease-duration-seconds=10"],
       "--lease-duration-seconds: 10 s would let another replica lead while this one still acts for 10 s; \
        give more than --renew-deadline-seconds")]
#[case(&["--lease-duration-seconds=4000"],
       "--lease-duration-seconds: 4000 s without a leader after a crash is too long; give 3600 or less")]
#[case(&["--max-concurrent-reconciles=0"],
       "--max-concurrent-reconciles: 0 means that nothing ever happens; give 1 or more")]
#[case(&["--max-boots-in-flight=0"], "--max-boots-in-flight: 0 means that nothing ever happens; give 1 or more")]
#[case(&["--power-poll-seconds=3"],
       "--power-poll-seconds: 3 s would be a storm on the BMCs; give 10 or more, or 0 for off")]
#[case(&["--image-cache-size=4Ki"],
       "--image-cache-size: 4Ki holds no image; give at least 1Mi, better several times the largest image")]
#[case(&["--namespace=Racks"], "--namespace: \"Racks\" cannot be a namespace; give a DNS label such as racks")]
fn bad_options(#[case] arguments: &[&str], #[case] expected: &str) {
    assert_eq!(check(arguments).unwrap_err(), expected);
}

#[rstest]
#[case(&[], "--boot-url: is needed since the server listens on every address (0.0.0.0:6180); \
             give http://<address that hosts can reach>:6180")]
#[case(&["--boot-url=https://10.0.0.1"], "--boot-url: https://10.0.0.1 is not http; begin it with http://")]
#[case(&["--boot-url=http://0.0.0.0:6180"],
       "--boot-url: http://0.0.0.0:6180 is no address to connect to; name an address that hosts can reach")]
#[case(&["--boot-url=http://[::]:6180"],
       "--boot-url: http://[::]:6180 is no address to connect to; name an address that hosts can reach")]
#[case(&["--boot-url=http://me:pw@10.0.0.1"],
       "--boot-url: has credentials, a query or a fragment; give scheme, host, port and path only")]
fn bad_urls(#[case] arguments: &[&str], #[case] expected: &str) {
    assert_eq!(parse(arguments).unwrap().validate().unwrap_err().to_string(), expected);
}

#[test]
fn a_single_bind_address_is_its_own_url() {
    let options = parse(&["--boot-bind-address=127.0.0.1:1", "--agent-bind-address=[::1]:2"]).unwrap();
    options.validate().unwrap();
    assert_eq!(options.boot_base().unwrap(), "http://127.0.0.1:1");
    assert_eq!(options.agent_base().unwrap(), "https://[::1]:2");
}

#[test]
fn unparsable_values_name_their_flag() {
    let message = check(&["--metrics-bind-address=localhost"]).err().unwrap();
    assert!(message.contains("--metrics-bind-address") && message.contains("0.0.0.0:8080"), "{message}");
    let message = check(&["--image-cache-size=20GB"]).err().unwrap();
    assert!(message.contains("--image-cache-size") && message.contains("20Gi"), "{message}");
}

#[test]
fn help_suffices() {
    use clap::CommandFactory;
    let command = Cli::command();
    for argument in command.get_arguments().filter(|a| a.get_id() != "help" && a.get_id() != "version") {
        assert!(argument.get_help().is_some(), "{} has no help", argument.get_id());
        assert!(argument.get_help_heading().is_some(), "{} has no heading", argument.get_id());
        let variable = argument.get_env().and_then(|v| v.to_str()).unwrap_or_default();
        let flag = argument.get_long().unwrap_or_default();
        assert_eq!(variable, format!("FERRIC_{}", flag.replace('-', "_").to_uppercase()));
    }
}

const SERVER: [&str; 4] = [
    "--agent-image-dir=/a",
    "--dhcp-mode=server",
    "--dhcp-interface=br0",
    "--dhcp-range=10.0.0.100-10.0.0.199/24",
];

#[test]
fn dhcp_is_off_unless_asked_for() {
    assert!(check(&["--agent-image-dir=/a"]).unwrap().dhcp().unwrap().is_none());
    let proxy = check(&["--agent-image-dir=/a", "--dhcp-mode=proxy", "--dhcp-interface=br0"]).unwrap();
    let dhcp = proxy.dhcp().unwrap().unwrap();
    assert_eq!((dhcp.settings.server.to_string().as_str(), dhcp.pool.is_none()), ("10.0.0.1", true));
    let reservations = "--dhcp-reservation=52:54:00:00:00:01=10.0.0.7,52:54:00:00:00:02=10.0.0.8";
    let dhcp =
        check(&[&SERVER[..], &[reservations, "--dhcp-router=10.0.0.254"]].concat()).unwrap().dhcp().unwrap();
    let dhcp = dhcp.unwrap();
    assert_eq!(dhcp.settings.network.mask.to_string(), "255.255.255.0");
    assert!(dhcp.pool.is_some());
}

#[rstest]
#[case(&["--dhcp-mode=proxy", "--dhcp-interface=br0"], "--agent-image-dir")]
#[case(&["--agent-image-dir=/a", "--dhcp-mode=proxy"], "--dhcp-interface")]
#[case(&["--agent-image-dir=/a", "--dhcp-mode=server", "--dhcp-interface=x"], "--dhcp-range")]
#[case(&["--dhcp-range=10.0.0.100"], "prefix")]
#[case(&["--dhcp-range=10.0.0.9-10.0.0.8/24"], "after")]
#[case(&["--dhcp-range=10.0.0.9-10.0.1.8/24"], "one network")]
#[case(&["--dhcp-range=10.0.0.0-10.0.0.8/24"], "nobody")]
#[case(&["--dhcp-range=10.0.0.9-10.0.0.255/24"], "nobody")]
#[case(&["--dhcp-range=10.0.0.9-10.0.0.10/31"], "prefix")]
#[case(&["--dhcp-reservation=52:54:00:00:00:01"], "MAC address and")]
fn dhcp_that_cannot_work_is_refused(#[case] arguments: &[&str], #[case] expected: &str) {
    let error = check(arguments).unwrap_err();
    assert!(error.contains(expected), "{error}");
}

#[rstest]
#[case("--dhcp-reservation=52:54:00:00:00:01=10.0.1.7", "network of --dhcp-range")]
#[case("--dhcp-server-address=10.0.0.150", "own address")]
#[case("--dhcp-lease-seconds=5", "60 or more")]
fn a_dhcp_server_with_odd_addresses_is_refused(#[case] more: &str, #[case] expected: &str) {
    let error = check(&[&SERVER[..], &[more]].concat()).unwrap_err();
    assert!(error.contains(expected), "{error}");
}
