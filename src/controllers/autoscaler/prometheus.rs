//! Asks a Prometheus server. Every question has a time and a byte limit; redirects are not followed, since the answer to a
//! bearer token's question is not to be had elsewhere.

use std::time::Duration;

use ferric_api::autoscaling::PrometheusTrigger;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use url::Url;

use crate::autoscaling::triggers::{Reading, answer};

/// An instant query of one number has a few hundred bytes.
const MOST: usize = 256 * 1024;

/// How a server is spoken to: what a trigger's Secrets hold.
#[derive(Clone, Default)]
pub struct Access {
    /// The value of the header `Authorization`.
    pub authorization: Option<HeaderValue>,
    /// Certificates in PEM that the server's is checked with, instead of the usual ones.
    pub authorities: Option<Vec<u8>>,
}

/// Asks; whatever goes wrong is a reading too.
pub async fn ask(trigger: &PrometheusTrigger, access: &Access) -> Reading {
    let limit = Duration::from_secs(trigger.timeout_seconds.clamp(1, 60).unsigned_abs().into());
    match tokio::time::timeout(limit, fetch(trigger, access, limit)).await {
        Ok(Ok(body)) => answer(&body),
        Ok(Err(why)) => Reading::Failed(why),
        Err(_) => Reading::Failed(format!("the server did not answer within {} s", limit.as_secs())),
    }
}

async fn fetch(trigger: &PrometheusTrigger, access: &Access, limit: Duration) -> Result<Vec<u8>, String> {
    let url = address(&trigger.server_url, &trigger.query)?;
    let mut builder = reqwest::Client::builder()
        .timeout(limit)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("ferric/", env!("CARGO_PKG_VERSION")));
    if let Some(pem) = &access.authorities {
        let certificates = reqwest::Certificate::from_pem_bundle(pem)
            .map_err(|_| "ca.crt of the Secret that caName names holds no certificate".to_owned())?;
        builder = builder.tls_certs_only(certificates);
    }
    let client = builder.build().map_err(|error| said(&error))?;
    let mut request = client.get(url);
    if let Some(authorization) = &access.authorization {
        request = request.header(AUTHORIZATION, authorization.clone());
    }
    let mut response = request.send().await.map_err(|error| said(&error))?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| said(&error))? {
        if body.len() + chunk.len() > MOST {
            return Err(format!("the server's answer has more than {MOST} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    // Prometheus explains bad queries in the body of a 400 or 422.
    match status.as_u16() {
        200 | 400 | 422 => Ok(body),
        401 | 403 => Err(format!("the server refused the credentials ({status}): look at credentialsName")),
        _ => Err(format!("the server answered {status}")),
    }
}

/// The query's URL.
fn address(server: &str, query: &str) -> Result<Url, String> {
    let mut url: Url = server.parse().map_err(|error| format!("serverURL: {error}"))?;
    let path = format!("{}/api/v1/query", url.path().trim_end_matches('/'));
    url.set_path(&path);
    url.set_fragment(None);
    url.query_pairs_mut().clear().append_pair("query", query);
    Ok(url)
}

/// What went wrong, with its causes and without the URL, which holds the query.
fn said(error: &reqwest::Error) -> String {
    let mut cause = std::error::Error::source(error);
    let mut text = if error.is_connect() { "no connection".to_owned() } else { "no answer".to_owned() };
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_path_of_a_proxy_stays_and_the_query_is_escaped() {
        let url = address("https://mon.example:9090/prom/", "sum(rate(q{a=\"b\"}[5m])) & 1").unwrap();
        assert!(url.as_str().starts_with("https://mon.example:9090/prom/api/v1/query?query=sum%28rate"));
        assert_eq!(url.query_pairs().next().unwrap().1, "sum(rate(q{a=\"b\"}[5m])) & 1");
        assert!(address("nowhere", "1").is_err());
    }
}
