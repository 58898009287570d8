#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::deploy::images::ReadyImage;

fn kernel() -> Image {
    Image {
        url: "http://h/vmlinuz".to_owned(),
        checksum: Some("a".repeat(64)),
        checksum_type: Some("sha256".to_owned()),
        disk_format: Some(ImageFormat::Kernel),
        initrd: Some(Initrd {
            url: "http://h/initrd.img".to_owned(),
            checksum: "http://h/SHA512SUMS".to_owned(),
            checksum_type: Some("sha512".to_owned()),
        }),
        kernel_parameters: Some("a=b".to_owned()),
        ..Image::default()
    }
}

#[test]
fn what_is_not_written_has_a_mark() {
    let image = |url: &str, disk_format| Image { url: url.to_owned(), disk_format, ..Image::default() };
    for (image, expected) in [
        (image("http://h/a.raw", None), None),
        (image("http://h/a.qcow2", None), None),
        (image("http://h/a.iso", Some(ImageFormat::LiveIso)), Some("live-iso".to_owned())),
    ] {
        assert_eq!(mark(&image), expected, "{image:?}");
    }
    let whole = mark(&kernel()).unwrap();
    let recorded = ImageRecord { digest: whole.clone(), ..ImageRecord::default() };
    assert!(is_recorded(&recorded) && runs_kernel(&recorded));
    // Whatever decides about the system decides about its mark.
    let changes: [fn(&mut Image); 5] = [
        |image| image.url.push('x'),
        |image| image.checksum = None,
        |image| image.initrd.as_mut().unwrap().url.push('x'),
        |image| image.initrd.as_mut().unwrap().checksum.push('x'),
        |image| image.kernel_parameters = Some("a=c".to_owned()),
    ];
    for change in changes {
        let mut other = kernel();
        change(&mut other);
        assert_ne!(mark(&other).unwrap(), whole, "{other:?}");
    }
}

#[test]
fn a_system_in_memory_is_two_files_and_anything_else_is_one() {
    let (first, second) = files(&kernel());
    assert_eq!((first.url.as_str(), first.checksum_type.as_deref()), ("http://h/vmlinuz", Some("sha256")));
    assert_eq!((first.disk_format, first.initrd), (Some(ImageFormat::Raw), None));
    let second = second.unwrap();
    assert_eq!(
        (second.url.as_str(), second.checksum_type.as_deref()),
        ("http://h/initrd.img", Some("sha512"))
    );
    assert_eq!(second.disk_format, Some(ImageFormat::Raw));
    let raw = Image { disk_format: None, ..kernel() };
    assert_eq!(files(&raw), (raw.clone(), None));
}

fn any_state() -> impl Strategy<Value = ImageState> {
    let ready = any::<u64>().prop_map(|size| {
        ImageState::Ready(ReadyImage {
            digest: "sha256:ab".to_owned(),
            path: "/images/a".to_owned(),
            size,
            compression: ferric_protocol::v1::Compression::None,
        })
    });
    let fetching = (any::<u64>(), any::<Option<u64>>())
        .prop_map(|(bytes_done, bytes_total)| ImageState::Fetching { bytes_done, bytes_total });
    let failed = Just(ImageState::Failed {
        reason: "Unreachable",
        message: "no".to_owned(),
        permanent: false,
        retry_at: jiff::Timestamp::UNIX_EPOCH,
    });
    prop_oneof![ready, fetching, failed]
}

proptest! {
    #[test]
    fn two_files_are_there_when_both_are(first in any_state(), second in any_state()) {
        let failed = |state: &ImageState| matches!(state, ImageState::Failed { .. });
        let ready = |state: &ImageState| matches!(state, ImageState::Ready(_));
        let together = both(first.clone(), second.clone());
        prop_assert_eq!(failed(&together), failed(&first) || failed(&second));
        prop_assert_eq!(ready(&together), ready(&first) && ready(&second));
    }
}
