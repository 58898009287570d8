//! Entries of the Boot Loader Specification, type 1: `loader/entries/*.conf`.

use std::cmp::Ordering;

use super::{KernelEntry, LoaderConfigError, Variables};

/// Reads one entry. `$name` in its options is what GRUB's variables say (`$kernelopts` of older Red Hat systems), and
/// nothing where they say nothing.
pub fn parse(text: &str, variables: &Variables) -> Result<KernelEntry, LoaderConfigError> {
    let (mut title, mut kernel, mut initrds, mut options) = (String::new(), None, Vec::new(), Vec::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some((key, value)) = line.split_once([' ', '\t']) else { continue };
        let value = value.trim();
        match key {
            "title" => title = value.to_owned(),
            "linux" => kernel = Some(value.to_owned()),
            // Several may stand on one line where GRUB's blscfg wrote them.
            "initrd" => initrds
                .extend(value.split_whitespace().filter(|word| !word.starts_with('$')).map(str::to_owned)),
            "options" => options.push(value.to_owned()),
            _ => {}
        }
    }
    let kernel = kernel.ok_or(LoaderConfigError::NoKernel)?;
    let options: Vec<String> = options
        .iter()
        .flat_map(|line| line.split_whitespace())
        .map(|word| match word.strip_prefix('$') {
            Some(name) => variables.get(name.trim_matches(['{', '}'])).cloned().unwrap_or_default(),
            None => word.to_owned(),
        })
        .filter(|word| !word.is_empty())
        .collect();
    KernelEntry::checked(&title, &kernel, &initrds, options.join(" "))
}

/// Which of these names of entry files (without `.conf`) is started: the saved one if it is there, else the newest, as the
/// comparison of versions has it. Rescue entries come last.
pub fn newest<'a>(names: &[&'a str], saved: Option<&str>) -> Option<&'a str> {
    if let Some(found) = names.iter().find(|name| Some(**name) == saved) {
        return Some(found);
    }
    let rank = |name: &str| !name.contains("-rescue");
    names.iter().copied().max_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| compare(a, b)))
}

/// Compares names as versions: runs of digits by their value, all else by its bytes.
fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let (digits_a, digits_b) = (digits(a), digits(b));
        if !digits_a.is_empty() && !digits_b.is_empty() {
            let value =
                |digits: &[u8]| digits.iter().position(|d| *d != b'0').map_or(0, |at| digits.len() - at);
            let stripped = |digits: &'_ [u8]| digits[digits.len() - value(digits)..].to_vec();
            let order = value(digits_a)
                .cmp(&value(digits_b))
                .then_with(|| stripped(digits_a).cmp(&stripped(digits_b)));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[digits_a.len()..], &b[digits_b.len()..]);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some((x, rest_a)), Some((y, rest_b))) if x == y => (a, b) = (rest_a, rest_b),
            (Some((x, _)), Some((y, _))) => return x.cmp(y),
        }
    }
}

fn digits(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    &bytes[..end]
}
