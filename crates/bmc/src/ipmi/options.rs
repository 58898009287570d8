//! What an address says beyond host and port: `ipmi://host[:port]?privilegelevel=OPERATOR&ciphersuite=17`.

use super::keys::{MAX_PASSWORD, UserKey};
use super::machine::{Config, Privilege, Timing};
use super::suite::Suite;
use super::wire::setup::MAX_USERNAME;
use crate::error::BmcError;
use crate::types::ConnectOptions;

/// How to log in, from the address and the credentials.
pub(crate) fn config(options: &ConnectOptions) -> Result<Config, BmcError> {
    let bad = |message: String| BmcError::BadOptions { message };
    let (mut privilege, mut suites) = (Privilege::Operator, Suite::DEFAULT.to_vec());
    for option in options.address.query().split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name.to_ascii_lowercase().as_str() {
            "privilegelevel" => privilege = level(value).map_err(bad)?,
            "ciphersuite" => suites = vec![chosen(value).map_err(bad)?],
            _ => {
                return Err(bad(format!(
                    "the address has option {name:?}: IPMI knows privilegelevel and ciphersuite"
                )));
            }
        }
    }
    if !matches!(options.address.path(), "" | "/") {
        return Err(bad("the address has a path: a BMC that speaks IPMI has one system".to_owned()));
    }
    let credentials = options.credentials.as_ref().ok_or_else(|| {
        bad("IPMI wants a user and a password: name a Secret in bmc.credentialsName".to_owned())
    })?;
    let username = credentials.username.as_bytes().to_vec();
    if username.len() > MAX_USERNAME {
        let length = username.len();
        return Err(bad(format!(
            "the user name has {length} bytes: IPMI has room for {MAX_USERNAME}; use another user"
        )));
    }
    let user = UserKey::new(credentials.password.as_bytes()).ok_or_else(|| {
        bad(format!("the password is longer than IPMI has room for, {MAX_PASSWORD} bytes: set a shorter one"))
    })?;
    Ok(Config { username, user, suites, privilege, timing: Timing::default() })
}

fn level(value: &str) -> Result<Privilege, String> {
    let known = [Privilege::User, Privilege::Operator, Privilege::Administrator];
    known.into_iter().find(|level| level.name().eq_ignore_ascii_case(value)).ok_or_else(|| {
        format!(
            "privilegelevel={value} is none of USER (reads only), OPERATOR (the default) and ADMINISTRATOR"
        )
    })
}

fn chosen(value: &str) -> Result<Suite, String> {
    let id: u8 = value.parse().map_err(|_| {
        format!("ciphersuite={value} is no number: use 17 or 3, or leave it out for the best")
    })?;
    Suite::chosen(id).map_err(|why| {
        format!("ciphersuite={id} {why}; 17 and 3 are used without asking, 16 and 2 (nothing encrypted) when named")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::Credentials;

    fn options(address: &str) -> ConnectOptions {
        let credentials = Credentials::new("admin", "hunter2");
        ConnectOptions {
            address: address.parse().unwrap(),
            credentials: Some(credentials),
            ca_pem: None,
            certificate_sha256: None,
            insecure: false,
        }
    }

    #[test]
    fn addresses() {
        let read = |address: &str| config(&options(address)).map(|it| (it.privilege, it.suites)).ok();
        let both = Suite::DEFAULT.to_vec();
        for (address, expected) in [
            ("ipmi://h", Some((Privilege::Operator, both.clone()))),
            ("192.0.2.1:6230/", Some((Privilege::Operator, both.clone()))),
            ("ipmi://h?privilegelevel=ADMINISTRATOR", Some((Privilege::Administrator, both.clone()))),
            ("ipmi://h?privilegelevel=user", Some((Privilege::User, both.clone()))),
            ("ipmi://h?ciphersuite=3", Some((Privilege::Operator, vec![Suite::Sha1]))),
            (
                "ipmi://h?ciphersuite=16&privilegelevel=OPERATOR",
                Some((Privilege::Operator, vec![Suite::Sha256Clear])),
            ),
            ("ipmi://h?privilegelevel=CALLBACK", None),
            ("ipmi://h?privilegelevel", None),
            ("ipmi://h?ciphersuite=0", None),
            ("ipmi://h?ciphersuite=x", None),
            ("ipmi://h?cipher=3", None),
            ("ipmi://h/path", None),
        ] {
            assert_eq!(read(address), expected, "{address}");
        }
        let error = config(&options("ipmi://h?ciphersuite=0")).unwrap_err().to_string();
        assert!(error.contains("no authentication"), "{error}");
    }

    #[test]
    fn credentials() {
        let with = |username: &str, password: &str| {
            let mut options = options("ipmi://h");
            options.credentials = Some(Credentials::new(username, password));
            config(&options)
        };
        assert!(with("sixteen-bytes-ok", "twenty bytes are ok.").is_ok());
        assert!(with("", "").is_ok(), "the anonymous user");
        let error = with("seventeen-bytes-1", "hunter2").unwrap_err().to_string();
        assert!(error.contains("17 bytes"), "{error}");
        let error = with("admin", "hunter2hunter2hunter2").unwrap_err().to_string();
        assert!(error.contains("longer") && !error.contains("hunter2"), "{error}");
        let mut none = options("ipmi://h");
        none.credentials = None;
        assert!(config(&none).is_err());
        assert!(!format!("{:?}", with("admin", "hunter2").unwrap()).contains("hunter2"));
    }
}
