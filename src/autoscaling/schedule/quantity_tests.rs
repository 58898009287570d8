#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use rstest::rstest;

use super::*;

#[rstest]
#[case("0", 0, 0)]
#[case("1", 1, 1000)]
#[case("250m", 1, 250)]
#[case("0.1m", 1, 1)]
#[case("1500m", 2, 1500)]
#[case("1.5", 2, 1500)]
#[case(".5", 1, 500)]
#[case("1.", 1, 1000)]
#[case("+2", 2, 2000)]
#[case("-1", -1, -1000)]
#[case("-1.5", -1, -1500)]
#[case("100n", 1, 1)]
#[case("1u", 1, 1)]
#[case("12e6", 12_000_000, 12_000_000_000)]
#[case("12E6", 12_000_000, 12_000_000_000)]
#[case("1e-3", 1, 1)]
#[case("1E", 1_000_000_000_000_000_000, i64::MAX)]
#[case("1Ki", 1024, 1_024_000)]
#[case("1.5Gi", 1_610_612_736, 1_610_612_736_000)]
#[case("0.0000000001Ti", 110, 109_952)]
#[case("129M", 129_000_000, 129_000_000_000)]
#[case("7Ei", 8_070_450_532_247_928_832, i64::MAX)]
#[case("8Ei", i64::MAX, i64::MAX)]
#[case("1e99999999999", i64::MAX, i64::MAX)]
#[case("1e-99999999999", 1, 1)]
#[case("0e99999999999", 0, 0)]
#[case("00000000000000000000000000000000000000000000000000001", 1, 1000)]
#[case("99999999999999999999999999999999999999999999999999999", i64::MAX, i64::MAX)]
#[case("0.00000000000000000000000000000000000000000000000000001", 1, 1)]
fn amounts(#[case] text: &str, #[case] units: i64, #[case] thousandths: i64) {
    let amount = Amount::parse(text).unwrap();
    assert_eq!((amount.units(), amount.thousandths()), (units, thousandths), "{text}");
}

#[rstest]
#[case("")]
#[case("-")]
#[case(".")]
#[case("m")]
#[case("1 Gi")]
#[case("1gi")]
#[case("1K")]
#[case("1ki")]
#[case("1e")]
#[case("1e+")]
#[case("1e3m")]
#[case("1..5")]
#[case("--1")]
#[case("١")]
#[case("NaN")]
fn no_quantities(#[case] text: &str) {
    assert!(Amount::parse(text).is_err(), "{text}");
}

#[test]
fn fractions_are_rounded_after_the_sum() {
    let half = Amount::parse("500u").unwrap();
    assert_eq!(half.plus(half).thousandths(), 1);
    assert_eq!(half.thousandths() + half.thousandths(), 2);
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in "\\PC*") {
        let _ = Amount::parse(&text);
    }

    #[test]
    fn quantity_like_text_never_panics(text in "[-+]?[0-9.]{0,60}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}") {
        if let Ok(amount) = Amount::parse(&text) {
            prop_assert!(amount.units() <= amount.thousandths() || amount.units() <= 1);
            prop_assert_eq!(amount.plus(Amount::ZERO), amount);
        }
    }

    #[test]
    fn whole_numbers_are_themselves(value in any::<i32>()) {
        let amount = Amount::parse(&value.to_string()).unwrap();
        prop_assert_eq!(amount.units(), i64::from(value));
        prop_assert_eq!(amount.thousandths(), i64::from(value) * 1000);
    }

    #[test]
    fn a_decimal_point_is_a_division(value in 0_u64..1_000_000_000_000, places in 0_usize..=9) {
        let divisor = 10_u64.pow(u32::try_from(places).unwrap());
        let text = format!("{}.{:0width$}", value / divisor, value % divisor, width = places.max(1));
        let expected = i128::from(value) * 1_000_000_000 / i128::from(divisor);
        if places > 0 {
            prop_assert_eq!(Amount::parse(&text).unwrap(), Amount(expected));
        }
    }

    #[test]
    fn binary_suffixes_are_powers_of_two(value in 0_i64..1 << 40, power in 1_u32..=2) {
        let suffix = ["Ki", "Mi"][power as usize - 1];
        let amount = Amount::parse(&format!("{value}{suffix}")).unwrap();
        prop_assert_eq!(amount.units(), value << (10 * power));
    }

    #[test]
    fn order_is_kept(a in 0_u32.., b in 0_u32..) {
        let read = |n: u32| Amount::parse(&format!("{n}m")).unwrap();
        prop_assert_eq!(a.cmp(&b), read(a).cmp(&read(b)));
    }
}
