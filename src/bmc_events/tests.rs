//! What the receiver takes from whom.
#![allow(clippy::unwrap_used)]
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use tower::ServiceExt;

use super::*;

const KEY: &[u8] = b"a key of 32 bytes or a bit more .";

fn token(host: &str) -> String {
    BootToken { host: host.into(), boot_number: 0, expires: u64::MAX }
        .mint_for(TokenUse::Events, KEY)
        .unwrap()
}

#[test]
fn contexts_are_found_in_whatever_comes() {
    for (text, found) in [
        (r#"{"Context":"abc","Events":[]}"#, Some("abc")),
        (r#"{"Events":[{"Context" : "abc"}]"#, Some("abc")),
        (r#"{"Context":null,"Events":[{"Context":"abc"#, None),
        (r#"{"x":"\"Context\"","Context":"abc"}"#, Some("abc")),
        (r#"{"Context":{},"Context":"abc"}"#, Some("abc")),
        (r#"{"Context"  "#, None),
        ("", None),
    ] {
        assert_eq!(context_in(text.as_bytes()), found, "{text}");
    }
}

#[test]
fn no_event_harms_the_provider() {
    let event = |context: &str| {
        format!(
            r##"{{"@odata.type": "#Event.v1_7_0.Event", "Context": "{context}", "Events": [{{"EventId": "1"}}]}}"##
        )
    };
    let good = event(&token("racks/r1"));
    let seeds = [good.clone(), event(""), good.replace(' ', "\n")].map(String::into_bytes);
    crate::fuzz::fuzz(&seeds, 5, |bytes| {
        let host = context_in(bytes).and_then(|context| host_of(KEY, context));
        assert!(host.is_none_or(|host| host.to_string() == "racks/r1"));
    });
}

#[test]
fn only_tokens_of_this_use_name_a_host() {
    assert_eq!(host_of(KEY, &token("racks/r1")), Some(Key::new("racks", "r1")));
    let boot = BootToken { host: "racks/r1".into(), boot_number: 0, expires: u64::MAX }.mint(KEY).unwrap();
    assert_eq!(host_of(KEY, &boot), None);
    assert_eq!(host_of(b"another key of thirty-two bytes .", &token("racks/r1")), None);
}

#[test]
fn rates() {
    let (mut rates, start) = (Rates::default(), Instant::now());
    let (one, other) = (Key::new("a", "1"), Key::new("a", "2"));
    let mut at = |ms: u64| match rates.turn(&one, start + Duration::from_millis(ms)) {
        Turn::Now => "now".to_owned(),
        Turn::Later(pause) => format!("in {} ms", pause.as_millis()),
        Turn::Covered => "covered".to_owned(),
    };
    let turns = [0, 0, 0, 100, 200, 999, 1100, 1200, 9000].map(&mut at);
    assert_eq!(
        turns,
        ["now", "now", "now", "in 900 ms", "covered", "covered", "in 900 ms", "covered", "now"]
    );
    assert_eq!(rates.turn(&other, start), Turn::Now, "another host has its own");
    for n in 0..RATES {
        rates.turn(&Key::new("b", n.to_string()), start);
    }
    assert!(rates.hosts.len() <= RATES);
    assert_eq!(rates.turn(&Key::new("c", "1"), start + Duration::from_secs(60)), Turn::Now);
    assert!(rates.hosts.len() < 10, "those at rest are forgotten");
}

async fn answered(shared: &Arc<Shared>, body: Body) -> u16 {
    let router = Router::new().fallback(post(take)).with_state(shared.clone());
    let request = http::Request::post("/any/path").body(body).unwrap();
    router.oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn who_knows_the_token_wakes_its_host_and_nobody_else() {
    let (leading, leader) = watch::channel(Leadership::Leader);
    let woken = Arc::new(AtomicUsize::new(0));
    let wake = {
        let woken = woken.clone();
        Box::new(move |host: &Key| {
            assert_eq!(host.to_string(), "racks/r1");
            woken.fetch_add(1, Ordering::Relaxed);
        })
    };
    let receiver = Receiver { token_key: KEY.to_vec(), wake, leader };
    let shared = Arc::new(Shared { receiver, rates: Mutex::default() });
    let event = format!(r#"{{"Context": "{}", "Events": []}}"#, token("racks/r1"));
    assert_eq!(answered(&shared, event.clone().into()).await, 204);
    assert_eq!(woken.load(Ordering::Relaxed), 1);
    for bad in ["", "{", r#"{"Context": "guessed"}"#] {
        assert_eq!(answered(&shared, bad.into()).await, 403);
    }
    // The token comes too late.
    let late = format!("{}{event}", " ".repeat(LOOKED_AT));
    assert_eq!(answered(&shared, late.into()).await, 403);
    // Without end: only the beginning is read, or only so long waited for.
    let endless = futures::stream::iter(std::iter::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1024])));
    assert_eq!(answered(&shared, Body::from_stream(endless)).await, 403);
    let silent = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    assert_eq!(answered(&shared, Body::from_stream(silent)).await, 408);
    for _ in 0..20 {
        assert_eq!(answered(&shared, event.clone().into()).await, 204);
    }
    assert_eq!(woken.load(Ordering::Relaxed), 3);
    // The last of them is not lost.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(woken.load(Ordering::Relaxed), 4);
    leading.send(Leadership::Standby { holder: None }).unwrap();
    assert_eq!(answered(&shared, event.into()).await, 503);
}

proptest! {
    #[test]
    fn whatever_comes_is_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..300) {
        let _ = context_in(&bytes);
        let mut near = bytes;
        let at = at.min(near.len());
        near.splice(at..at, *b"\"Context\":\"");
        if let Some(found) = context_in(&near) {
            prop_assert!(!found.contains('"'));
        }
    }
}
