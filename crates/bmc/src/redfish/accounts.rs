//! The BMC's own list of users (`AccountService`, DSP0266 and the schema ManagerAccount).

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, header};
use serde_json::{Value, json};

use super::http::{Answer, Http, Request};
use super::json as js;
use crate::error::BmcError;

/// Where the users are when the account service does not say.
const DEFAULT_ACCOUNTS: &str = "/redfish/v1/AccountService/Accounts";
/// The account service, which the service root links to under this name.
const SERVICE: &str = "/redfish/v1/AccountService";
/// Users that are looked at.
const MOST: usize = 64;

type Identity = (HeaderName, HeaderValue);

/// Gives a user another password. `login` is what the BMC said to the login: it names the account where nothing but the
/// password may be changed.
pub(super) async fn set_password(
    http: &Http,
    identity: &Identity,
    username: &str,
    password: &str,
    login: &Value,
) -> Result<(), BmcError> {
    let (path, tag) = match named_by(login) {
        Some(path) => {
            // The tag is worth a question, but not the account: it may not be read in this state.
            let answer = get(http, identity, &path).await?;
            let tag = if answer.ok() { tag(&answer) } else { None };
            (path, tag)
        }
        None => find(http, identity, username).await?,
    };
    let body = json!({"Password": password});
    let request = Request { method: Method::PATCH, link: &path, body: Some(&body), etag: tag.as_deref() };
    let answer = http.send(&request, Some(identity)).await?;
    if answer.ok() { Ok(()) } else { Err(answer.into_error(&Method::PATCH)) }
}

/// The account that a login names which wants a new password: the first argument of `PasswordChangeRequired`.
fn named_by(login: &Value) -> Option<String> {
    let wanted = |info: &&Value| {
        js::text(info, "/MessageId").is_some_and(|id| id.ends_with(".PasswordChangeRequired"))
    };
    let info = js::extended_info(login).iter().find(wanted)?;
    js::strings(info, "/MessageArgs")?.into_iter().next()
}

/// The user's account and its tag.
async fn find(
    http: &Http,
    identity: &Identity,
    username: &str,
) -> Result<(String, Option<String>), BmcError> {
    let service = get(http, identity, SERVICE).await?;
    let accounts = js::link(service.json(), "/Accounts").unwrap_or_else(|| DEFAULT_ACCOUNTS.to_owned());
    let list = get(http, identity, &accounts).await?;
    if !list.ok() {
        return Err(list.into_error(&Method::GET));
    }
    for member in js::members(list.json(), "/Members").into_iter().take(MOST) {
        let account = get(http, identity, &member.path).await?;
        if account.ok() && js::text(account.json(), "/UserName") == Some(username) {
            return Ok((member.path, tag(&account)));
        }
    }
    Err(BmcError::NotSupported {
        what: format!("the change of a password: {accounts} has no user of that name"),
    })
}

async fn get(http: &Http, identity: &Identity, link: &str) -> Result<Answer, BmcError> {
    http.send(&Request { method: Method::GET, link, body: None, etag: None }, Some(identity)).await
}

fn tag(answer: &Answer) -> Option<String> {
    answer.header(&header::ETAG).map(str::to_owned).or_else(|| js::string(answer.json(), "/@odata.etag"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_may_name_its_account() {
        let path = "/redfish/v1/AccountService/Accounts/3";
        let info = json!([{"MessageId": "Base.1.8.PasswordChangeRequired", "MessageArgs": [path]}]);
        assert_eq!(named_by(&json!({"@Message.ExtendedInfo": info})).as_deref(), Some(path));
        assert_eq!(named_by(&json!({"error": {"@Message.ExtendedInfo": info}})).as_deref(), Some(path));
        let other = json!([{"MessageId": "Base.1.8.Success", "MessageArgs": [path]}]);
        for login in [json!({}), json!({"@Message.ExtendedInfo": other}), Value::Null] {
            assert_eq!(named_by(&login), None);
        }
    }
}
