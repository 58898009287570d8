//! The `Range` header of a request for one file: pure parsing. What is not understood is ignored, as HTTP has it: the
//! whole file is the answer then.

/// What to send of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of it.
    Whole,
    /// The bytes from `first` to `last`, both included.
    Part {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: u64,
    },
    /// The range lies behind the end.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `size` bytes. Several ranges at once are not served: the whole file is.
pub(crate) fn select(header: Option<&str>, size: u64) -> Selection {
    let Some(spec) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else { return Selection::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Selection::Whole };
    let end = size.saturating_sub(1);
    match (number(first), number(last)) {
        (Given::Number(first), _) if first >= size => match number(last) {
            Given::Number(last) if last < first => Selection::Whole,
            Given::Garbage => Selection::Whole,
            _ => Selection::Unsatisfiable,
        },
        (Given::Number(first), Given::Nothing) => Selection::Part { first, last: end },
        (Given::Number(first), Given::Number(last)) if first <= last => {
            Selection::Part { first, last: last.min(end) }
        }
        (Given::Nothing, Given::Number(0)) => Selection::Unsatisfiable,
        (Given::Nothing, Given::Number(_)) if size == 0 => Selection::Unsatisfiable,
        (Given::Nothing, Given::Number(suffix)) => {
            Selection::Part { first: size.saturating_sub(suffix), last: end }
        }
        _ => Selection::Whole,
    }
}

enum Given {
    Nothing,
    Number(u64),
    Garbage,
}

fn number(text: &str) -> Given {
    if text.is_empty() {
        Given::Nothing
    } else if text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit is behind the end of any file.
        Given::Number(text.parse().unwrap_or(u64::MAX))
    } else {
        Given::Garbage
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_forms_of_rfc_9110() {
        let part = |first, last| Selection::Part { first, last };
        let table = [
            (None, Selection::Whole),
            (Some("bytes=0-0"), part(0, 0)),
            (Some("bytes=2-5"), part(2, 5)),
            (Some("bytes=2-"), part(2, 9)),
            (Some("bytes=-3"), part(7, 9)),
            (Some("bytes=-30"), part(0, 9)),
            (Some("bytes=0-99999999999999999999"), part(0, 9)),
            (Some("bytes=10-"), Selection::Unsatisfiable),
            (Some("bytes=99999999999999999999-"), Selection::Unsatisfiable),
            (Some("bytes=-0"), Selection::Unsatisfiable),
            (Some("bytes=5-2"), Selection::Whole),
            (Some("bytes=1-2,4-5"), Selection::Whole),
            (Some("bytes=-"), Selection::Whole),
            (Some("bytes=+1-2"), Selection::Whole),
            (Some("lines=1-2"), Selection::Whole),
            (Some(""), Selection::Whole),
        ];
        for (header, expected) in table {
            assert_eq!(select(header, 10), expected, "{header:?}");
        }
        assert_eq!(select(Some("bytes=0-"), 0), Selection::Unsatisfiable);
        assert_eq!(select(Some("bytes=-5"), 0), Selection::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_always_lies_within_the_file(header in "(bytes=)?[0-9]{0,21}-?[0-9]{0,21}[, a-]{0,2}", size: u64) {
            if let Selection::Part { first, last } = select(Some(&header), size) {
                prop_assert!(first <= last && last < size, "{first}-{last} of {size}");
            }
        }

        #[test]
        fn what_a_resuming_client_asks_for_is_what_it_gets(size in 1u64.., done: prop::sample::Index) {
            let first = (done.index(usize::MAX) as u64) % size;
            let header = format!("bytes={first}-");
            prop_assert_eq!(select(Some(&header), size), Selection::Part { first, last: size - 1 });
        }

        #[test]
        fn nothing_makes_it_panic(header in "\\PC{0,60}", size: u64) {
            let _ = select(Some(&header), size);
        }
    }
}
