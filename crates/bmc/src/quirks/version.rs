//! Firmware versions as BMCs write them, and ranges of them.

use std::cmp::Ordering;

/// Most numbers of a version that are compared.
const PARTS: usize = 8;
/// Most characters of a firmware text that are looked at.
const TEXT: usize = 256;

/// The numbers of a version: of `iLO 5 v2.72` it is 2.72, of `TGBT42S 2.83 2023-07-05` it is 2.83.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version(Vec<u64>);

impl Version {
    /// The first numbers with a dot between them, else the first number; `None` where there is no digit.
    pub(super) fn of(text: &str) -> Option<Self> {
        let text: String = text.chars().take(TEXT).collect();
        let mut single = None;
        for run in text.split(|c: char| !c.is_ascii_digit() && c != '.') {
            let numbers: Vec<u64> = run
                .split('.')
                .filter(|part| !part.is_empty())
                .take(PARTS)
                .map(|part| part.parse().unwrap_or(u64::MAX))
                .collect();
            match numbers.len() {
                0 => {}
                1 => single = single.or(Some(numbers)),
                _ => return Some(Self(numbers)),
            }
        }
        single.map(Self)
    }

    /// Number by number; what is missing counts as 0.
    fn compare(&self, other: &Self) -> Ordering {
        (0..PARTS)
            .map(|at| {
                let part = |version: &Self| version.0.get(at).copied().unwrap_or(0);
                part(self).cmp(&part(other))
            })
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

/// How a bound is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

/// Bounds that all hold, e.g. `>=2.60, <3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range(Vec<(Bound, Version)>);

impl Range {
    /// Reads a range, or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "firmware {text:?} is no range: write bounds with a comma between them, such as \">=2.60, <3\""
            )
        };
        if text.len() > TEXT {
            return Err(bad());
        }
        let bound = |part: &str| {
            let part = part.trim();
            let operators = [
                (">=", Bound::AtLeast),
                ("<=", Bound::AtMost),
                (">", Bound::More),
                ("<", Bound::Less),
                ("=", Bound::Equal),
            ];
            let (sign, bound) = operators.into_iter().find(|(sign, _)| part.starts_with(sign))?;
            let number = part.strip_prefix(sign)?.trim();
            let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            Some((bound, Version::of(number).filter(|_| plain)?))
        };
        text.split(',').map(bound).collect::<Option<Vec<_>>>().map(Self).ok_or_else(bad)
    }

    /// Whether the version that a firmware text holds is within the range; a text without one is not.
    pub(super) fn holds(&self, firmware: &str) -> bool {
        let Some(version) = Version::of(firmware) else { return false };
        self.0.iter().all(|(bound, limit)| {
            let order = version.compare(limit);
            match bound {
                Bound::Less => order.is_lt(),
                Bound::AtMost => order.is_le(),
                Bound::Equal => order.is_eq(),
                Bound::AtLeast => order.is_ge(),
                Bound::More => order.is_gt(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_in_texts() {
        for (text, numbers) in [
            ("iLO 5 v2.72", vec![2, 72]),
            ("TGBT42S 2.83 2023-07-05", vec![2, 83]),
            ("6.00.30.00", vec![6, 0, 30, 0]),
            ("11.01.01", vec![11, 1, 1]),
            ("v42", vec![42]),
            ("1.99999999999999999999999", vec![1, u64::MAX]),
            ("..3..4..", vec![3, 4]),
        ] {
            assert_eq!(Version::of(text).unwrap().0, numbers, "{text}");
        }
        assert_eq!(Version::of("none..."), None);
    }

    #[test]
    fn ranges() {
        let holds = |range: &str, firmware: &str| Range::parse(range).unwrap().holds(firmware);
        assert!(holds(">=2.60, <3", "iLO 5 v2.72"));
        assert!(!holds(">=2.60, <3", "iLO 5 v3.00"));
        assert!(holds("=6", "6.00.00.00"));
        assert!(holds(">6.00.30", "6.00.30.01"));
        assert!(holds("<=6.00.30", "6.00.30.00"));
        assert!(!holds(">0", "unknown"));
        for bad in ["", "2.60", ">=", ">=a", ">=1,", "~1.0", ">=1.0-rc1"] {
            assert!(Range::parse(bad).unwrap_err().contains("is no range"), "{bad}");
        }
    }
}
