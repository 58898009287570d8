//! The driver logging in, and what it does when it may not.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Fake, Reply, SESSIONS, SYSTEM, pass, refusal, simple};
use ferric_bmc::{BmcError, BmcPool, Credentials, PowerState};
use serde_json::json;

#[tokio::test]
async fn a_lost_token_is_renewed_once() {
    let (fake, pool, bmc) = simple().await;
    bmc.power().await.unwrap();
    fake.state.lock().unwrap().tokens.clear();
    fake.take_log();
    let (a, b) = tokio::join!(bmc.power(), bmc.power());
    assert_eq!((a.unwrap(), b.unwrap()), (PowerState::Off, PowerState::Off));
    let logins = fake.take_log().iter().filter(|asked| asked.starts_with("POST")).count();
    assert_eq!(logins, 1, "two requests that failed together log in once");
    assert_eq!(pool.counters().snapshot().logins, 2);

    // A token that is refused from the start is no loop.
    fake.hook(|asked| (asked.path == SYSTEM).then(|| refusal(401, "x", "never")));
    let error = bmc.power().await.unwrap_err();
    assert!(matches!(error, BmcError::Unauthorized { retry_at: None, .. }), "{error}");
    assert_eq!(error.reason(), "BMCUnauthorized");
}

#[tokio::test]
async fn refused_credentials_are_left_alone_for_a_quarter_of_an_hour() {
    let (fake, pool) = (Fake::simple().await, BmcPool::default());
    let mut options = fake.options("");
    options.credentials = Some(Credentials { username: "admin".into(), password: "wrong".into() });
    let bmc = pool.get("host", &options).unwrap();
    let attempts = |log: Vec<String>| log.iter().filter(|asked| asked.starts_with("POST")).count();

    let error = bmc.probe().await.unwrap_err();
    assert_eq!(error.reason(), "BMCUnauthorized");
    assert!(error.to_string().contains("wrong user name or password"), "{error}");
    assert!(error.retry_after().unwrap() > Duration::from_secs(800));
    assert!(!format!("{error:?} {options:?}").contains("wrong\""), "no password in any text");
    assert_eq!(attempts(fake.take_log()), 1);
    for _ in 0..3 {
        assert!(matches!(bmc.power().await, Err(BmcError::Unauthorized { retry_at: Some(_), .. })));
    }
    // Neither another host object for the same BMC nor the host made anew tries again.
    let second = pool.get("second", &options).unwrap();
    assert!(second.probe().await.is_err());
    pool.forget("host");
    assert!(pool.get("host", &options).unwrap().probe().await.is_err());
    assert_eq!(attempts(fake.take_log()), 0);

    // A new password is tried at once.
    let mended = pool.get("host", &fake.options("")).unwrap();
    mended.probe().await.unwrap();
    assert_eq!(attempts(fake.take_log()), 1);

    // The old one after the pause, once.
    pass(Duration::from_secs(15 * 60)).await;
    assert!(second.probe().await.is_err());
    assert!(second.probe().await.is_err());
    assert_eq!(attempts(fake.take_log()), 1);
}

#[tokio::test]
async fn without_sessions_basic_authentication_does() {
    for status in [404, 405, 501] {
        let (fake, _pool, bmc) = simple().await;
        fake.hook(move |asked| (asked.path == SESSIONS).then(|| Reply::status(status)));
        bmc.probe().await.unwrap();
        bmc.power().await.unwrap();
        let log = fake.take();
        assert_eq!(log.iter().filter(|asked| asked.path == SESSIONS).count(), 1);
        assert!(log.last().unwrap().headers.contains_key("authorization"));
        assert!(!log[0].headers.contains_key("authorization"), "the service root is for all");
    }
}

#[tokio::test]
async fn a_wrong_password_without_sessions_is_tried_once() {
    let (fake, pool) = (Fake::simple().await, BmcPool::default());
    fake.edit("/redfish/v1", |root| *root = json!({"Systems": {"@odata.id": "/redfish/v1/Systems"}}));
    let mut options = fake.options("");
    options.credentials = Some(Credentials { username: "admin".into(), password: "wrong".into() });
    let bmc = pool.get("host", &options).unwrap();
    for _ in 0..3 {
        assert!(matches!(bmc.power().await, Err(BmcError::Unauthorized { retry_at: Some(_), .. })));
    }
    assert_eq!(fake.take_log(), ["GET /redfish/v1/", "GET /redfish/v1/Systems"]);
}

#[tokio::test]
async fn a_service_root_behind_a_login() {
    let (fake, _pool, bmc) = simple().await;
    fake.hook(|asked| {
        let closed = asked.headers.get("authorization").is_none();
        closed.then(|| refusal(401, "x", "who are you"))
    });
    assert_eq!(bmc.power().await.unwrap(), PowerState::Off);
}

#[tokio::test]
async fn no_free_session_slot() {
    let (fake, _pool, bmc) = simple().await;
    fake.hook(|asked| {
        (asked.path == SESSIONS).then(|| refusal(403, "Base.1.8.SessionLimitExceeded", "all slots taken"))
    });
    bmc.power().await.unwrap();
    fake.unhook();
    pass(Duration::from_secs(601)).await;
    bmc.power().await.unwrap();
    assert!(fake.take().last().unwrap().headers.contains_key("x-auth-token"), "sessions are tried again");
}

#[tokio::test]
async fn no_free_session_slot_and_no_basic_authentication_is_no_wrong_password() {
    let (fake, _pool, bmc) = simple().await;
    fake.hook(|asked| {
        if asked.path == SESSIONS {
            return Some(refusal(503, "Base.1.8.SessionLimitExceeded", "all slots taken"));
        }
        asked.headers.contains_key("authorization").then(|| refusal(401, "x", "not with a password"))
    });
    for _ in 0..5 {
        let error = bmc.power().await.unwrap_err();
        assert!(matches!(error, BmcError::Busy { .. }), "{error}");
        assert!(error.to_string().contains("all its sessions are taken"), "{error}");
    }
    let with_password = fake.take().iter().filter(|a| a.headers.contains_key("authorization")).count();
    assert_eq!(with_password, 1, "who knows whether it is right: accounts are locked");
    fake.unhook();
    bmc.power().await.unwrap();
}

#[tokio::test]
async fn credentials_wanted_and_none_given() {
    let (fake, pool) = (Fake::simple().await, BmcPool::default());
    let mut options = fake.options("");
    options.credentials = None;
    let error = pool.get("host", &options).unwrap().probe().await.unwrap_err();
    assert!(error.to_string().contains("the host has none"), "{error}");
    fake.state.lock().unwrap().credentials = None;
    pool.get("host", &options).unwrap().probe().await.unwrap();
}

#[tokio::test]
async fn hosts_behind_one_bmc_share_a_session_and_the_last_one_ends_it() {
    let (fake, pool) = (Fake::simple().await, BmcPool::default());
    for host in ["blade-1", "blade-2"] {
        pool.get(host, &fake.options("")).unwrap().probe().await.unwrap();
    }
    let count = |method: &str, log: &[String]| log.iter().filter(|asked| asked.starts_with(method)).count();
    assert_eq!(count("POST", &fake.take_log()), 1, "one login");

    pool.forget("blade-1");
    let second = pool.get("blade-2", &fake.options("")).unwrap();
    second.power().await.unwrap();
    assert_eq!(count("DELETE", &fake.take_log()), 0);
    drop(second);
    pool.close().await;
    assert_eq!(count("DELETE", &fake.take_log()), 1);
}
