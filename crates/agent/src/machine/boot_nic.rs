//! Which card the machine was booted through, as the kernel's command line has it.

use ferric_protocol::net::Mac;

/// The MAC of `BOOTIF=01-aa-bb-cc-dd-ee-ff` (the first byte is the hardware type), as PXELINUX and iPXE hand it on.
pub(super) fn boot_interface(cmdline: &str) -> Option<Mac> {
    let value = cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix("BOOTIF="))?;
    value.strip_prefix("01-").or_else(|| value.strip_prefix("01:")).unwrap_or(value).parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_boot_interface_is_found() {
        let expected: Mac = "52:54:00:aa:bb:cc".parse().unwrap();
        assert_eq!(boot_interface("a BOOTIF=01-52-54-00-AA-BB-CC b"), Some(expected));
        assert_eq!(boot_interface("a BOOTIF=52:54:00:aa:bb:cc"), Some(expected));
        assert_eq!(boot_interface("BOOTIF=nonsense"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}") {
            let _ = boot_interface(&format!("BOOTIF={text}"));
        }
    }
}
