//! The driver logging in, and what it does when it may not.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Fake, Reply, SESSIONS, SYSTEM, pass, refusal, simple};
use ferric_bmc::{BmcError, BmcPool, ConnectOptions, Credentials, PowerState};
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
    options.credentials = Some(Credentials::new("admin", "wrong"));
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
    options.credentials = Some(Credentials::new("admin", "wrong"));
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

const ACCOUNTS: &str = "/redfish/v1/AccountService/Accounts";

/// A BMC whose user has the password of the factory, and which changes it as told.
async fn with_accounts() -> Fake {
    let fake = Fake::simple().await;
    let link = |path: &str| json!({ "@odata.id": path });
    let (first, second) = (format!("{ACCOUNTS}/1"), format!("{ACCOUNTS}/2"));
    let add = |path: &str, value| {
        fake.state.lock().unwrap().resources.insert(path.to_lowercase(), value);
    };
    add("/redfish/v1/AccountService", json!({"Accounts": link(ACCOUNTS)}));
    add(ACCOUNTS, json!({"Members": [link(&first), link(&second)]}));
    add(&first, json!({"UserName": "root"}));
    add(&second, json!({"UserName": "admin", "@odata.etag": "\"7\""}));
    fake
}

/// Options with a new password and the one before.
fn replacing(fake: &Fake, new: &str, previous: &str) -> ConnectOptions {
    let mut credentials = Credentials::new("admin", new);
    credentials.previous_password = Some(previous.to_owned());
    ConnectOptions { credentials: Some(credentials), ..fake.options("") }
}

#[tokio::test]
async fn a_previous_password_is_replaced_by_the_new_one() {
    let (fake, pool) = (with_accounts().await, BmcPool::default());
    let options = replacing(&fake, "n3w-p4ss", "secret");
    let bmc = pool.get("host", &options).unwrap();
    assert_eq!(bmc.power().await.unwrap(), PowerState::Off);
    let asked = fake.take();
    let changes: Vec<String> = asked
        .iter()
        .filter(|asked| asked.method != "GET")
        .map(|asked| format!("{} {}", asked.method, asked.path))
        .collect();
    let login = format!("POST {SESSIONS}");
    assert_eq!(
        changes,
        [
            login.clone(),
            login.clone(),
            format!("PATCH {ACCOUNTS}/2"),
            format!("DELETE {SESSIONS}/token-1"),
            login.clone()
        ],
        "the new one, the old one, the change, the old one's session ended, the new one"
    );
    let patch = asked.iter().find(|asked| asked.method == "PATCH").unwrap();
    assert_eq!(
        (patch.body.clone(), patch.headers["if-match"].to_str().unwrap()),
        (json!({"Password": "n3w-p4ss"}), "\"7\"")
    );
    assert!(!format!("{options:?}").contains("secret"), "no password in any text");
    // From now on the new one is taken at once.
    BmcPool::default().get("host", &options).unwrap().power().await.unwrap();
    assert_eq!(fake.take_log().iter().filter(|asked| **asked == login).count(), 1);
}

#[tokio::test]
async fn a_previous_password_that_is_wrong_is_tried_once() {
    let (fake, pool) = (with_accounts().await, BmcPool::default());
    let options = replacing(&fake, "wrong", "wrong too");
    let bmc = pool.get("host", &options).unwrap();
    for _ in 0..3 {
        let error = bmc.power().await.unwrap_err();
        assert!(matches!(error, BmcError::Unauthorized { retry_at: Some(_), .. }), "{error}");
    }
    let log = fake.take_log();
    assert_eq!(log.iter().filter(|asked| asked.starts_with("POST")).count(), 2, "{log:?}");
    assert!(!log.iter().any(|asked| asked.starts_with("PATCH")));
}

#[tokio::test]
async fn a_password_that_is_refused_is_not_tried_again_and_again() {
    let (fake, pool) = (with_accounts().await, BmcPool::default());
    fake.hook(|asked| {
        (asked.method == "PATCH")
            .then(|| refusal(400, "Base.1.8.PropertyValueFormatError", "at least 12 characters"))
    });
    let options = replacing(&fake, "short", "secret");
    let bmc = pool.get("host", &options).unwrap();
    let error = bmc.power().await.unwrap_err().to_string();
    assert!(error.contains("cannot be replaced") && error.contains("at least 12 characters"), "{error}");
    fake.take_log();
    assert!(bmc.power().await.is_err());
    assert!(!fake.take_log().iter().any(|asked| asked.starts_with("POST")));
}

#[tokio::test]
async fn a_bmc_that_wants_another_password_says_so() {
    let (fake, _pool, bmc) = simple().await;
    fake.hook(|asked| {
        (asked.method == "POST").then(|| {
            let info =
                json!([{"MessageId": "Base.1.8.PasswordChangeRequired", "MessageArgs": ["/redfish/v1/x"]}]);
            Reply::json(201, json!({"@Message.ExtendedInfo": info})).header("x-auth-token", "t")
        })
    });
    let error = bmc.power().await.unwrap_err().to_string();
    assert!(error.contains("previousPassword"), "{error}");
}
