//! Boot data: the four facts an agent needs to find and trust its provider, carried on the kernel command line.
//!
//! They come by whatever way the machine boots (virtual media, UEFI HTTP, iPXE), so the text form is the kernel's own:
//! `ferric.url=… ferric.ca=… ferric.token=… ferric.time=…`, separated by spaces.

use std::fmt;

use url::Url;

const URL: &str = "ferric.url";
const CA: &str = "ferric.ca";
const TOKEN: &str = "ferric.token";
const TIME: &str = "ferric.time";

/// Where the provider is, how to know it, and what to show it. Always valid: made by [`BootData::new`] or
/// [`BootData::parse`] only.
///
/// ```
/// use ferric_protocol::BootData;
///
/// let boot = BootData::new("https://10.0.0.1:8443", &"ab".repeat(32), "dG9rZW4", 1_800_000_000)?;
/// let line = format!("console=ttyS0 {} quiet", boot.to_kernel_args());
/// assert_eq!(BootData::parse(&line)?, boot);
/// # Ok::<(), ferric_protocol::BootDataError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct BootData {
    provider_url: String,
    ca_sha256: String,
    token: String,
    time: u64,
}

/// Boot data that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootDataError {
    /// An argument is absent.
    #[error("the kernel command line has no {0}=")]
    Missing(&'static str),
    /// An argument comes twice: which one is meant is anyone's guess.
    #[error("the kernel command line has {0}= twice")]
    Repeated(&'static str),
    /// The provider's URL is not one.
    #[error("{URL} must be an https URL without credentials, query or fragment, got {0:?}")]
    Url(String),
    /// The CA pin is not a SHA-256.
    #[error("{CA} must be 64 hexadecimal digits, got {0:?}")]
    Ca(String),
    /// The token has characters that no token has. It is a secret, so it is not shown.
    #[error("{TOKEN} must be 1 to 1024 characters of base64url")]
    Token,
    /// The time is not a number.
    #[error("{TIME} must be seconds since 1970, got {0:?}")]
    Time(String),
}

impl BootData {
    /// Checks and normalises. `ca_sha256` is the SHA-256 (hex) of the DER of the CA that signed the provider's
    /// certificate, `time` is the present in seconds since 1970.
    pub fn new(provider_url: &str, ca_sha256: &str, token: &str, time: u64) -> Result<Self, BootDataError> {
        let bad_url = || BootDataError::Url(provider_url.chars().take(200).collect());
        let url = Url::parse(provider_url).map_err(|_| bad_url())?;
        let plain = url.scheme() == "https"
            && url.host().is_some()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            // Quotes are the one thing that both a URL and the command line's grammar may hold.
            && !url.as_str().contains(['"', ' ']);
        if !plain {
            return Err(bad_url());
        }
        if ca_sha256.len() != 64 || !ca_sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BootDataError::Ca(ca_sha256.chars().take(80).collect()));
        }
        let base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if token.is_empty() || token.len() > 1024 || !token.bytes().all(base64url) {
            return Err(BootDataError::Token);
        }
        Ok(Self {
            provider_url: url.as_str().trim_end_matches('/').to_owned(),
            ca_sha256: ca_sha256.to_ascii_lowercase(),
            token: token.to_owned(),
            time,
        })
    }

    /// URL of the provider's agent service, without a slash at its end.
    #[must_use]
    pub fn provider_url(&self) -> &str {
        &self.provider_url
    }

    /// SHA-256 of the CA certificate's DER, 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn ca_sha256(&self) -> &str {
        &self.ca_sha256
    }

    /// The boot token. A secret until it is spent.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The time at which the provider made this, in seconds since 1970.
    #[must_use]
    pub fn time(&self) -> u64 {
        self.time
    }

    /// The arguments to put on the kernel command line.
    #[must_use]
    pub fn to_kernel_args(&self) -> String {
        let Self { provider_url, ca_sha256, token, time } = self;
        format!("{URL}={provider_url} {CA}={ca_sha256} {TOKEN}={token} {TIME}={time}")
    }

    /// Finds the arguments in a kernel command line, which may hold others.
    pub fn parse(cmdline: &str) -> Result<Self, BootDataError> {
        let arguments = split_arguments(cmdline);
        let find = |name: &'static str| {
            let mut found =
                arguments.iter().filter_map(|(key, value)| (key == name).then_some(value.as_str()));
            match (found.next(), found.next()) {
                (Some(value), None) => Ok(value),
                (Some(_), Some(_)) => Err(BootDataError::Repeated(name)),
                (None, _) => Err(BootDataError::Missing(name)),
            }
        };
        let (url, ca, token, time) = (find(URL)?, find(CA)?, find(TOKEN)?, find(TIME)?);
        let time = time.parse().map_err(|_| BootDataError::Time(time.chars().take(40).collect()))?;
        Self::new(url, ca, token, time)
    }
}

impl fmt::Debug for BootData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider_url, ca_sha256, token: _, time } = self;
        f.debug_struct("BootData")
            .field("provider_url", provider_url)
            .field("ca_sha256", ca_sha256)
            .field("token", &"…")
            .field("time", time)
            .finish()
    }
}

/// Splits a command line as the kernel does: at blanks outside double quotes; `key="a b"` loses its quotes.
fn split_arguments(cmdline: &str) -> Vec<(String, String)> {
    let mut arguments = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in cmdline.chars().chain(std::iter::once('\n')) {
        match c {
            '"' => quoted = !quoted,
            c if c.is_ascii_whitespace() && (!quoted || c == '\n') => {
                if let Some((key, value)) = std::mem::take(&mut word).split_once('=') {
                    arguments.push((key.to_owned(), value.to_owned()));
                }
                quoted = false;
            }
            c => word.push(c),
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn sample() -> BootData {
        BootData::new("https://provider.example:8443/", &"Ab".repeat(32), "abc-_9", 7).unwrap()
    }

    #[test]
    fn url_and_pin_are_normalised_and_the_token_is_not_shown() {
        let boot = sample();
        assert_eq!(boot.provider_url(), "https://provider.example:8443");
        assert_eq!(boot.ca_sha256(), "ab".repeat(32));
        assert!(!format!("{boot:?}").contains("abc-_9"));
    }

    #[test]
    fn refuses_what_cannot_be_used() {
        let ca = "0".repeat(64);
        for url in ["http://x", "x", "https://u:p@x", "https://x/?q", "https://x/#f", ""] {
            assert_eq!(BootData::new(url, &ca, "t", 0), Err(BootDataError::Url(url.into())), "{url}");
        }
        assert_eq!(BootData::new("https://x", "00", "t", 0), Err(BootDataError::Ca("00".into())));
        for token in ["", "a b", "a\"b", "a=b"] {
            assert_eq!(BootData::new("https://x", &ca, token, 0), Err(BootDataError::Token));
        }
    }

    #[test]
    fn finds_its_arguments_among_others() {
        let args = sample().to_kernel_args();
        assert_eq!(
            BootData::parse(&format!("a=b \"q r\" x=\"ferric.url=https://evil\" {args}\n")),
            Ok(sample())
        );
        assert_eq!(BootData::parse(""), Err(BootDataError::Missing(URL)));
        assert_eq!(BootData::parse(&format!("{args} {args}")), Err(BootDataError::Repeated(URL)));
        assert_eq!(
            BootData::parse(&args.replace("ferric.time=7", "ferric.time=now")),
            Err(BootDataError::Time("now".into()))
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            host in "[a-z][a-z0-9]{0,20}(\\.[a-z][a-z0-9]{0,10}){0,3}",
            port in 1u16..,
            path in "(/[A-Za-z0-9._~-]{1,10}){0,3}",
            ca in "[0-9a-fA-F]{64}",
            token in "[A-Za-z0-9_-]{1,500}",
            time: u64,
            before in "[ a-z.=\"0-9]{0,40}",
        ) {
            let boot = BootData::new(&format!("https://{host}:{port}{path}"), &ca, &token, time).unwrap();
            prop_assert_eq!(BootData::parse(&boot.to_kernel_args()).unwrap(), boot.clone());
            // Other arguments do not matter, as long as their quotes are closed.
            if before.matches('"').count() % 2 == 0 {
                let line = format!("{before} {} quiet", boot.to_kernel_args());
                prop_assert_eq!(BootData::parse(&line).unwrap(), boot);
            }
        }

        #[test]
        fn no_command_line_makes_it_panic(line in "\\PC{0,200}") {
            let _ = BootData::parse(&line);
        }
    }
}
