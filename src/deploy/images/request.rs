//! What a host asks for, read from its spec, and how long to wait after a failure. Pure.

use std::time::Duration;

use ferric_api::host::{Image, ImageFormat};
use ferric_image::{Checksum, ChecksumAlgorithm, ChecksumError};
use ferric_protocol::v1::Compression;
use url::Url;

use super::oci::Artifact;
use crate::key::Key;

/// Where the checksum comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Expected {
    /// It stands in the spec.
    Known(Checksum),
    /// It stands in a list on a server.
    Listed { url: Url, algorithm: Option<ChecksumAlgorithm> },
    /// It stands in the manifest of an OCI artifact, and what the spec says beside that must be the same.
    Manifest {
        artifact: Artifact,
        said: Option<Checksum>,
        /// The Secret with the registry's credentials.
        secret: Option<Key>,
    },
}

/// What the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// The bytes of the disk; agents get the file as it is.
    Raw,
    /// It is unpacked here; agents get extents.
    Qcow2,
}

/// An image that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ImageRequest {
    pub url: Url,
    pub kind: Kind,
    pub expected: Expected,
}

/// A spec that no fetch can satisfy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

fn refuse<T>(reason: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { reason, message: message.into() })
}

impl ImageRequest {
    /// Reads the spec. `secret` is the Secret that `ociAuthSecretName` means.
    pub(super) fn of(image: &Image, secret: Option<&Key>) -> Result<Self, Refusal> {
        let Image { url, checksum, checksum_type, .. } = image;
        let kind = match image.effective_format() {
            ImageFormat::Raw => Kind::Raw,
            ImageFormat::Qcow2 => Kind::Qcow2,
            other @ (ImageFormat::Vdi | ImageFormat::Vmdk) => {
                let name = format!("{other:?}").to_lowercase();
                return refuse(
                    FORMAT,
                    format!("format {name} is not read: convert it with qemu-img to qcow2 or raw"),
                );
            }
            ImageFormat::LiveIso => {
                // The host controller does not ask for it: the BMC fetches it.
                return refuse(FORMAT, "format live-iso is not written to a disk");
            }
            ImageFormat::Kernel => {
                // The host controller asks for its files one by one.
                return refuse(FORMAT, "format kernel is not written to a disk");
            }
        };
        if let Some(artifact) = Artifact::parse(url) {
            return Self::of_artifact(image, kind, artifact?, secret);
        }
        let Some(url) = http_url(url) else {
            return refuse(INVALID, "the image's URL must begin with http://, https:// or oci://");
        };
        if let Some(suffix) = unsupported_suffix(&url) {
            return refuse(
                FORMAT,
                format!("{suffix} is not read: use raw or qcow2, as it is or with .gz, .zst or .xz"),
            );
        }
        let algorithm = match checksum_type.as_deref() {
            None | Some("" | "auto") => None,
            Some(name) => match name.parse::<ChecksumAlgorithm>() {
                Ok(algorithm) => Some(algorithm),
                Err(error) => return refuse(CHECKSUM, error.to_string()),
            },
        };
        let text = checksum.as_deref().map(str::trim).filter(|c| !c.is_empty());
        let Some(text) = text else {
            return refuse(CHECKSUM, "the image has no checksum: give its sha256 or sha512");
        };
        let expected = match http_url(text) {
            Some(url) => Expected::Listed { url, algorithm },
            None => match Checksum::parse(text, algorithm) {
                Ok(checksum) => Expected::Known(checksum),
                Err(error) => return refuse(CHECKSUM, error.to_string()),
            },
        };
        Ok(Self { url, kind, expected })
    }

    fn of_artifact(
        image: &Image,
        kind: Kind,
        artifact: Artifact,
        secret: Option<&Key>,
    ) -> Result<Self, Refusal> {
        let Ok(url) = Url::parse(&image.url) else {
            return refuse(INVALID, "the image's URL cannot be read");
        };
        let text = image.checksum.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let said = match text.map(|text| Checksum::parse(text, None)).transpose() {
            Ok(said) if said.as_ref().is_none_or(|said| said.algorithm() == ChecksumAlgorithm::Sha256) => {
                said
            }
            _ => {
                let message = "an OCI artifact is known by the digest in its URL: leave the checksum out, or give the \
                               SHA-256 of its layer";
                return refuse(CHECKSUM, message);
            }
        };
        let expected = Expected::Manifest { artifact, said, secret: secret.cloned() };
        Ok(Self { url, kind, expected })
    }

    /// Name of the file, by which a list of checksums knows it.
    pub(super) fn file_name(&self) -> &str {
        self.url.path_segments().and_then(|mut s| s.next_back()).unwrap_or_default()
    }
}

pub(super) const FORMAT: &str = "FormatNotAvailable";
pub(super) const INVALID: &str = "ImageInvalid";
const CHECKSUM: &str = "ChecksumInvalid";

fn http_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.host().is_some())
}

fn unsupported_suffix(url: &Url) -> Option<&'static str> {
    let path = url.path().to_ascii_lowercase();
    [".bz2", ".lz4", ".zip", ".vmdk", ".vdi", ".iso"].into_iter().find(|s| path.ends_with(s))
}

/// How a file is compressed, by its first bytes; or what it is instead of what the spec says.
pub(super) fn recognise(head: &[u8], kind: Kind) -> Result<Compression, Refusal> {
    match head {
        [b'Q', b'F', b'I', 0xfb, ..] if kind == Kind::Qcow2 => Ok(Compression::None),
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
        [b'Q', b'F', b'I', 0xfb, ..] => refuse(FORMAT, "the image is qcow2, not raw as the spec says"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Compression::Xz),
        [b'K', b'D', b'M', b'V', ..] => refuse(FORMAT, "the image is vmdk, not raw as the spec says"),
        _ if kind == Kind::Qcow2 => refuse(FORMAT, "the image is not qcow2 as the spec says"),
        _ => Ok(Compression::None),
    }
}

/// The sentence for a list of checksums that cannot be used. What the server sent is not repeated: whoever may write a
/// spec could otherwise read what only the provider can reach.
pub(super) fn list_problem(error: &ChecksumError) -> String {
    match error {
        ChecksumError::NotListed { .. } | ChecksumError::Md5 | ChecksumError::Ambiguous(_) => {
            error.to_string()
        }
        ChecksumError::UnknownAlgorithm(_)
        | ChecksumError::Length(_)
        | ChecksumError::WrongLength { .. }
        | ChecksumError::NotHex => "it is not a list of sha256 or sha512 checksums".into(),
    }
}

/// A URL without what may be secret in it.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// How soon a failure may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hope {
    /// A server or a network that comes back.
    Soon,
    /// Somebody has to repair a file on a server, or make room.
    Later,
}

/// Time to wait after the `failures`-th failure in a row; `jitter` is from 0 to 1.
pub(super) fn back_off(hope: Hope, failures: u32, jitter: f64) -> Duration {
    let (first, most) = match hope {
        Hope::Soon => (5.0, 300.0),
        Hope::Later => (300.0, 3600.0),
    };
    let doubled = f64::from(2u32.saturating_pow(failures.saturating_sub(1).min(20)));
    Duration::from_secs_f64((first * doubled).min(most) * (0.8 + 0.4 * jitter.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn image(url: &str, checksum: &str) -> Image {
        Image { url: url.into(), checksum: Some(checksum.into()), ..Default::default() }
    }

    #[test]
    fn a_checksum_is_hex_or_the_url_of_a_list() {
        let hex = "ab".repeat(32);
        let known = ImageRequest::of(&image("http://x/d/a.raw.zst", &hex), None).unwrap();
        assert_eq!(known.expected, Expected::Known(Checksum::parse(&hex, None).unwrap()));
        assert_eq!(known.file_name(), "a.raw.zst");
        let listed = ImageRequest::of(&image("https://x/a", "https://x/SHA256SUMS"), None).unwrap();
        assert!(matches!(listed.expected, Expected::Listed { algorithm: None, .. }));
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_reason() {
        let hex = "ab".repeat(32);
        let vdi = Image { disk_format: Some(ImageFormat::Vdi), ..image("http://x/a", &hex) };
        let iso = Image { disk_format: Some(ImageFormat::LiveIso), ..image("http://x/a", &hex) };
        let typed = Image { checksum_type: Some("sha512".into()), ..image("http://x/a", &hex) };
        let none = Image { checksum: None, ..image("http://x/a", &hex) };
        let table = [
            (vdi, FORMAT, "vdi"),
            (iso, FORMAT, "live-iso"),
            (image("http://x/a.raw.bz2", &hex), FORMAT, ".bz2"),
            (image("ftp://x/a", &hex), "ImageInvalid", "http://"),
            (image("oci://x/a:latest", ""), "ImageInvalid", "tag"),
            (image("oci://x/a@sha256:ab", ""), "ImageInvalid", "digest"),
            (image(&format!("oci://x/a@sha256:{hex}"), &"ab".repeat(64)), CHECKSUM, "leave the checksum out"),
            (image("http://x/a", "abcd"), CHECKSUM, "4 digits"),
            (image("http://x/a", &"a".repeat(32)), CHECKSUM, "md5"),
            (typed, CHECKSUM, "128 digits"),
            (none, CHECKSUM, "no checksum"),
        ];
        for (image, reason, part) in table {
            let refusal = ImageRequest::of(&image, None).unwrap_err();
            assert_eq!(refusal.reason, reason, "{refusal:?}");
            assert!(refusal.message.contains(part), "{refusal:?}");
        }
    }

    #[test]
    fn compression_is_what_the_bytes_say() {
        for kind in [Kind::Raw, Kind::Qcow2] {
            assert_eq!(recognise(&[0x1f, 0x8b, 8], kind), Ok(Compression::Gzip));
            assert_eq!(recognise(&[0x28, 0xb5, 0x2f, 0xfd], kind), Ok(Compression::Zstd));
            assert_eq!(recognise(b"\xfd7zXZ\0", kind), Ok(Compression::Xz));
        }
        assert_eq!(recognise(&[0xeb, 0x63], Kind::Raw), Ok(Compression::None));
        assert_eq!(recognise(&[], Kind::Raw), Ok(Compression::None));
        // Only the cache itself makes extents.
        assert_eq!(recognise(b"FERRICX1", Kind::Raw), Ok(Compression::None));
        assert!(recognise(b"QFI\xfb", Kind::Raw).unwrap_err().message.contains("qcow2"));
        assert_eq!(recognise(b"QFI\xfb", Kind::Qcow2), Ok(Compression::None));
        assert!(recognise(&[0xeb, 0x63], Kind::Qcow2).unwrap_err().message.contains("not qcow2"));
    }

    #[test]
    fn the_kind_is_what_the_format_or_the_suffix_says() {
        let hex = "ab".repeat(32);
        let kind = |image: &Image| ImageRequest::of(image, None).unwrap().kind;
        assert_eq!(kind(&image("http://x/a.img.xz", &hex)), Kind::Raw);
        assert_eq!(kind(&image("http://x/a.qcow2", &hex)), Kind::Qcow2);
        assert_eq!(kind(&image("http://x/a.qcow2.zst?x=1", &hex)), Kind::Qcow2);
        let named = Image { disk_format: Some(ImageFormat::Qcow2), ..image("http://x/a.img", &hex) };
        assert_eq!(kind(&named), Kind::Qcow2);
    }

    #[test]
    fn secrets_in_a_url_are_not_shown() {
        let url = Url::parse("https://u:p@x:8/a/b?sig=s#f").unwrap();
        assert_eq!(shown(&url), "https://x:8/a/b");
    }

    proptest! {
        #[test]
        fn back_off_grows_to_its_bound(failures in 0u32.., jitter in 0.0f64..1.0) {
            let soon = back_off(Hope::Soon, failures, jitter);
            prop_assert!((4..=360).contains(&soon.as_secs()));
            let later = back_off(Hope::Later, failures, jitter);
            prop_assert!((240..=4320).contains(&later.as_secs()));
        }
    }
}
