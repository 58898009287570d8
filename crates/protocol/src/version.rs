//! Versions of the protocol: a provider speaks the current and the previous one, so that agents that are already running
//! survive its upgrade.

/// The version that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The oldest version that this build understands: the one before the current. Version 0 never existed.
pub const OLDEST_PROTOCOL_VERSION: u32 = if PROTOCOL_VERSION > 1 { PROTOCOL_VERSION - 1 } else { 1 };

/// The peer speaks a version that this build does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "protocol version {got} is not supported; supported are {OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION}"
)]
pub struct UnsupportedVersion {
    /// What the peer said.
    pub got: u32,
}

/// Tells whether the peer's version can be served.
pub fn check_version(got: u32) -> Result<(), UnsupportedVersion> {
    if (OLDEST_PROTOCOL_VERSION..=PROTOCOL_VERSION).contains(&got) {
        Ok(())
    } else {
        Err(UnsupportedVersion { got })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_and_oldest_are_served_and_others_are_not() {
        assert_eq!(check_version(PROTOCOL_VERSION), Ok(()));
        assert_eq!(check_version(OLDEST_PROTOCOL_VERSION), Ok(()));
        assert_eq!(check_version(0), Err(UnsupportedVersion { got: 0 }));
        assert_eq!(
            check_version(PROTOCOL_VERSION + 1),
            Err(UnsupportedVersion { got: PROTOCOL_VERSION + 1 })
        );
    }
}
