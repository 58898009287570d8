#![allow(clippy::unwrap_used)]

use super::*;

fn epoch(days: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 3600)
}

fn keys_at(now: SystemTime) -> ProviderKeys {
    ProviderKeys::from_data(&BTreeMap::new(), now).unwrap().0
}

#[test]
fn what_is_written_is_read_again() {
    let keys = keys_at(epoch(20_000));
    let (again, complete) = ProviderKeys::from_data(&keys.to_data(), epoch(20_001)).unwrap();
    assert!(complete);
    assert_eq!(again.ca_sha256(), keys.ca_sha256());
    assert_eq!(again.token_key(), keys.token_key());
    assert_eq!(again.ca_key_pem, keys.ca_key_pem);
}

#[test]
fn only_what_is_missing_or_expiring_is_made() {
    let keys = keys_at(epoch(20_000));
    let mut data = keys.to_data();
    data.remove(TOKEN_KEY);
    let (filled, complete) = ProviderKeys::from_data(&data, epoch(20_001)).unwrap();
    assert!(!complete);
    assert_eq!(filled.ca_sha256(), keys.ca_sha256());
    assert_ne!(filled.token_key(), keys.token_key());

    let (renewed, complete) = ProviderKeys::from_data(&keys.to_data(), epoch(20_000 + 3_500)).unwrap();
    assert!(!complete);
    assert_ne!(renewed.ca_sha256(), keys.ca_sha256());
    assert_eq!(renewed.token_key(), keys.token_key());
}

#[test]
fn a_secret_that_holds_something_else_is_refused_and_never_overwritten() {
    let (one, other) = (keys_at(epoch(20_000)), keys_at(epoch(20_000)));
    let mut mixed = one.to_data();
    mixed.insert(CA_KEY.into(), other.to_data()[CA_KEY].clone());
    let mut short = one.to_data();
    short.insert(TOKEN_KEY.into(), ByteString(vec![1; 31]));
    let mut garbage = one.to_data();
    garbage.insert(CA_CERT.into(), ByteString(b"not PEM".to_vec()));
    for (data, key) in [(mixed, CA_KEY), (short, TOKEN_KEY), (garbage, CA_CERT)] {
        let error = ProviderKeys::from_data(&data, epoch(20_001)).unwrap_err();
        assert!(matches!(&error, KeyError::Unusable { key: k, .. } if *k == key), "{error}");
    }
}

#[test]
fn the_serving_certificate_is_kept_and_renewed_in_time() {
    let keys = keys_at(epoch(20_000));
    let url = Url::parse("https://ferric.example:8443").unwrap();
    let serving = keys.serving(&url, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(serving.inner.names, ["ferric.example", "127.0.0.1"]);
    let first = serving.config_at(epoch(20_000)).unwrap();
    assert!(Arc::ptr_eq(&first, &serving.config_at(epoch(20_029)).unwrap()));
    assert!(!Arc::ptr_eq(&first, &serving.config_at(epoch(20_031)).unwrap()));
}

#[test]
fn names_are_those_that_are_dialled() {
    let keys = keys_at(epoch(20_000));
    let names = |url: &str, bind: Option<&str>| {
        let serving = keys.serving(&Url::parse(url).unwrap(), bind.map(|b| b.parse().unwrap()));
        serving.inner.names.clone()
    };
    assert_eq!(names("https://[fd00::1]:8443", Some("::")), ["fd00::1"]);
    assert_eq!(names("https://127.0.0.1:1", Some("127.0.0.1")), ["127.0.0.1"]);
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?}", keys_at(epoch(20_000)));
    assert!(shown.contains("ca_sha256") && !shown.contains("PRIVATE"), "{shown}");
}

/// An API server that holds one Secret and makes everybody who reads wait for `readers` others, so that they race.
fn racing_api(readers: usize) -> Client {
    use http::{Method, Request, Response, StatusCode};
    use http_body_util::BodyExt;
    use kube::client::Body;

    type Stored = Arc<tokio::sync::Mutex<Option<serde_json::Value>>>;

    async fn answer(
        request: Request<Body>,
        stored: Stored,
        race: Arc<tokio::sync::Barrier>,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let status = |code: StatusCode, reason: &str| {
            let text = serde_json::json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": reason, "reason": reason, "code": code.as_u16() });
            (code, text)
        };
        let (code, json) = match parts.method {
            Method::GET => {
                let found = stored.lock().await.clone();
                if found.is_none() {
                    race.wait().await;
                }
                found.map_or_else(|| status(StatusCode::NOT_FOUND, "NotFound"), |s| (StatusCode::OK, s))
            }
            Method::POST => {
                let mut stored = stored.lock().await;
                if stored.is_some() {
                    status(StatusCode::CONFLICT, "AlreadyExists")
                } else {
                    let secret: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    *stored = Some(secret.clone());
                    (StatusCode::CREATED, secret)
                }
            }
            other => panic!("{other}"),
        };
        let body = Body::from(serde_json::to_vec(&json).unwrap());
        Response::builder().status(code).body(body).unwrap()
    }

    let (stored, race) = (Stored::default(), Arc::new(tokio::sync::Barrier::new(readers)));
    let service = tower::service_fn(move |request| {
        let answer = answer(request, Arc::clone(&stored), Arc::clone(&race));
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    Client::new(service, "ferric-system")
}

#[tokio::test]
async fn managers_that_start_together_agree_on_the_keys() {
    let client = racing_api(3);
    let load = || ProviderKeys::load_or_create(client.clone(), "ferric-system");
    let (a, b, c) = tokio::join!(load(), load(), load());
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert_eq!((a.ca_sha256(), a.token_key()), (b.ca_sha256(), b.token_key()));
    assert_eq!((a.ca_sha256(), a.token_key()), (c.ca_sha256(), c.token_key()));
    assert_eq!(load().await.unwrap().ca_sha256(), a.ca_sha256(), "and so does who comes later");
}
