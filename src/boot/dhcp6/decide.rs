//! Which answer firmware gets that asks for a boot over IPv6. Pure.

use super::super::Told;

/// What is done with a question, and under which name it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Under which name it is counted.
    pub counted: &'static str,
    /// Whether it is sent on to the next entry of the boot order.
    pub sent_on: bool,
}

/// Decides by what the machine was told; `None`: nobody enrolled it. Nothing is booted over IPv6: a host that was told to boot
/// does so by another entry, which comes the sooner.
pub fn decide(told: Option<&Told>) -> Decision {
    match told {
        None => Decision { counted: "unknown", sent_on: false },
        Some(Told::Nothing) => Decision { counted: "uninvited", sent_on: true },
        Some(Told::Boot(_) | Told::Elsewhere) => Decision { counted: "elsewhere", sent_on: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enrolled_hosts_are_sent_on_and_nobody_else_is_answered() {
        let table = [
            (None, "unknown", false),
            (Some(Told::Nothing), "uninvited", true),
            (Some(Told::Elsewhere), "elsewhere", true),
            (Some(Told::Boot("token".to_owned())), "elsewhere", true),
        ];
        for (told, counted, sent_on) in table {
            assert_eq!(decide(told.as_ref()), Decision { counted, sent_on }, "{told:?}");
        }
    }
}
