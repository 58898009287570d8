//! Quantities as Kubernetes writes them: `250m`, `1.5Gi`, `12e6`.
//!
//! Read in billionths, which is the finest that the API keeps, with 128 bits: 2⁶³−1 units fit 10¹⁰ times. What the
//! scheduler counts, thousandths of a core or whole bytes, is rounded up once, after the sum: two containers of `500u`
//! cores ask for one thousandth together, not for two. Source of the grammar: `k8s.io/apimachinery`,
//! `pkg/api/resource/quantity.go`.

/// An exact amount, in billionths of a unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

/// Billionths in one unit.
const NANO: i128 = 1_000_000_000;
/// The largest amount, 2⁶³−1 units; larger ones are capped, as the API does for binary suffixes.
const MOST: i128 = i64::MAX as i128 * NANO;

/// The text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity: a number with an optional suffix such as m, k, Mi or e3 is expected")]
pub struct NotAQuantity(String);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Reads a quantity. More precise than a billionth is rounded up, away from zero; more than 2⁶³−1 is capped.
    pub fn parse(text: &str) -> Result<Self, NotAQuantity> {
        parse(text).ok_or_else(|| NotAQuantity(text.chars().take(64).collect()))
    }

    /// Whole units, rounded up: bytes, devices, pods.
    pub fn units(self) -> i64 {
        self.ceil(NANO)
    }

    /// Thousandths, rounded up: of a core.
    pub fn thousandths(self) -> i64 {
        self.ceil(NANO / 1000)
    }

    /// As a number with a fraction, not exact: for ratios.
    pub fn decimal(self) -> f64 {
        self.0 as f64 / NANO as f64
    }

    /// The sum, capped.
    pub fn plus(self, other: Self) -> Self {
        Self((self.0 + other.0).clamp(-MOST, MOST))
    }

    fn ceil(self, part: i128) -> i64 {
        let whole = self.0.div_euclid(part) + i128::from(self.0.rem_euclid(part) != 0);
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }
}

/// What a suffix multiplies by.
enum Scale {
    Ten(i32),
    Two(u32),
}

fn parse(text: &str) -> Option<Amount> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = rest.get(..digits(rest))?;
    let mut rest = rest.get(whole.len()..)?;
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        fraction = after.get(..digits(after))?;
        rest = after.get(fraction.len()..)?;
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let scale = suffix(rest)?;
    let magnitude = magnitude(whole, fraction, &scale);
    Some(Amount(if negative { -magnitude } else { magnitude }))
}

fn suffix(text: &str) -> Option<Scale> {
    Some(match text {
        "n" => Scale::Ten(-9),
        "u" => Scale::Ten(-6),
        "m" => Scale::Ten(-3),
        "" => Scale::Ten(0),
        "k" => Scale::Ten(3),
        "M" => Scale::Ten(6),
        "G" => Scale::Ten(9),
        "T" => Scale::Ten(12),
        "P" => Scale::Ten(15),
        "E" => Scale::Ten(18),
        "Ki" => Scale::Two(10),
        "Mi" => Scale::Two(20),
        "Gi" => Scale::Two(30),
        "Ti" => Scale::Two(40),
        "Pi" => Scale::Two(50),
        "Ei" => Scale::Two(60),
        _ => {
            let exponent = text.strip_prefix(['e', 'E'])?;
            let plain = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            if plain.is_empty() || !plain.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            // Beyond what i32 holds, any number but zero is as good as capped or rounded up.
            let far = if exponent.starts_with('-') { -10_000 } else { 10_000 };
            Scale::Ten(exponent.parse::<i32>().unwrap_or(far).clamp(-10_000, 10_000))
        }
    })
}

/// `whole.fraction × scale` in billionths, rounded up, at most [`MOST`].
fn magnitude(whole: &str, fraction: &str, scale: &Scale) -> i128 {
    let (ten, two) = match scale {
        Scale::Ten(exponent) => (*exponent, 0),
        Scale::Two(exponent) => (0, *exponent),
    };
    // Digits from the left, each worth ten times the next. `point` is the power of ten of the digit at hand, in
    // billionths. Leading zeros do not count; past the cap nothing more does.
    let mut point = i32::try_from(whole.len()).unwrap_or(i32::MAX).saturating_add(ten).saturating_add(8);
    let mut value: i128 = 0;
    let mut rest = false;
    // A binary suffix brings up to 2⁶⁰ = 1.2·10¹⁸: digits down to 10⁻¹⁹ billionths can still reach a billionth.
    let finest = if two > 0 { -19 } else { 0 };
    // The power of ten of the last digit in `value`.
    let mut low = 0;
    for digit in whole.bytes().chain(fraction.bytes()).map(|byte| i128::from(byte - b'0')) {
        if point >= finest && value < i128::MAX / 16 {
            value = value * 10 + digit;
            low = point;
        } else {
            rest |= digit != 0;
        }
        point = point.saturating_sub(1);
    }
    if value == 0 && !rest {
        return 0;
    }
    scaled(value, low, two, rest)
}

/// `value × 10^low × 2^two`, rounded up if there is a rest, at most [`MOST`].
fn scaled(value: i128, low: i32, two: u32, rest: bool) -> i128 {
    if low >= 0 {
        let mut value = value;
        for _ in 0..low.min(64) {
            value = value.saturating_mul(10);
        }
        let value = value.checked_mul(1 << two).unwrap_or(i128::MAX);
        return value.saturating_add(i128::from(rest)).min(MOST);
    }
    // With a binary suffix and digits below a billionth: multiply the whole part and the rest apart, so that nothing
    // overflows.
    let divisor = 10_i128.pow(low.unsigned_abs().min(30));
    let (high, part) = (value / divisor, value % divisor);
    let factor = 1_i128 << two;
    let high = high.checked_mul(factor).unwrap_or(i128::MAX);
    // part < 10¹⁹ and factor ≤ 2⁶⁰: the product stays below 2¹²⁴.
    let low = part.saturating_mul(factor);
    let low = low / divisor + i128::from(low % divisor != 0 || rest);
    high.saturating_add(low).min(MOST)
}

#[cfg(test)]
#[path = "quantity_tests.rs"]
mod tests;
