//! `metav1.LabelSelector`: which labels match, and if they don't, which requirement is to blame. An absent selector
//! matches everything, as the API field says.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The selector cannot be evaluated: the machine waits until it is mended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The operator is none of the four.
    #[error("operator {operator:?} of key {key:?} is not one of In, NotIn, Exists, DoesNotExist")]
    Operator {
        /// Key of the requirement.
        key: String,
        /// The operator as written.
        operator: String,
    },
    /// `In` and `NotIn` need values.
    #[error("operator {operator} of key {key:?} needs at least one value")]
    NoValues {
        /// Key of the requirement.
        key: String,
        /// `In` or `NotIn`.
        operator: &'static str,
    },
    /// `Exists` and `DoesNotExist` take none.
    #[error("operator {operator} of key {key:?} takes no values")]
    Values {
        /// Key of the requirement.
        key: String,
        /// `Exists` or `DoesNotExist`.
        operator: &'static str,
    },
}

/// A selector that was checked: it can always be evaluated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Checks a selector; `None` matches everything.
    pub fn parse(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else { return Ok(Self::default()) };
        let mut requirements: Vec<Requirement> = selector
            .match_labels
            .iter()
            .flatten()
            .map(|(key, value)| Requirement { key: key.clone(), test: Test::In(vec![value.clone()]) })
            .collect();
        for expression in selector.match_expressions.iter().flatten() {
            requirements.push(Requirement::parse(expression)?);
        }
        Ok(Self { requirements })
    }

    /// Whether the labels satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.holds(labels))
    }

    /// The first requirement that the labels do not satisfy, as a phrase: `missing label class=gpu`.
    pub fn mismatch(&self, labels: &Labels) -> Option<String> {
        self.requirements.iter().find(|r| !r.holds(labels)).map(|r| r.complaint(labels))
    }

    /// Whether there is nothing to satisfy.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

/// As kubectl writes selectors: `class=gpu,zone in (a,b),!spare`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl Requirement {
    fn parse(expression: &LabelSelectorRequirement) -> Result<Self, SelectorError> {
        let key = expression.key.clone();
        let values = expression.values.clone().unwrap_or_default();
        let some = |operator, test: fn(Vec<String>) -> Test| {
            if values.is_empty() {
                Err(SelectorError::NoValues { key: key.clone(), operator })
            } else {
                Ok(test(values.clone()))
            }
        };
        let none = |operator, test: Test| {
            if values.is_empty() {
                Ok(test)
            } else {
                Err(SelectorError::Values { key: key.clone(), operator })
            }
        };
        let test = match expression.operator.as_str() {
            "In" => some("In", Test::In)?,
            "NotIn" => some("NotIn", Test::NotIn)?,
            "Exists" => none("Exists", Test::Exists)?,
            "DoesNotExist" => none("DoesNotExist", Test::DoesNotExist)?,
            operator => return Err(SelectorError::Operator { key, operator: operator.to_owned() }),
        };
        Ok(Self { key, test })
    }

    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.contains(v)),
            // As in Kubernetes: an object without the label satisfies NotIn.
            Test::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }

    fn complaint(&self, labels: &Labels) -> String {
        match (&self.test, labels.get(&self.key)) {
            (Test::In(_) | Test::Exists, None) => format!("missing label {self}"),
            (_, Some(value)) => format!("label {}={value} instead of {self}", self.key),
            (_, None) => format!("not {self}"),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.test {
            Test::In(values) if values.len() == 1 => write!(f, "{key}={}", values.join(",")),
            Test::In(values) => write!(f, "{key} in ({})", values.join(",")),
            Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(",")),
            Test::Exists => f.write_str(key),
            Test::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: (!values.is_empty()).then(|| values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
        }
    }

    #[rstest::rstest]
    #[case("In", &["gpu", "big"], &[("class", "gpu")], true)]
    #[case("In", &["gpu", "big"], &[("class", "small")], false)]
    #[case("In", &["gpu"], &[], false)]
    #[case("NotIn", &["gpu"], &[("class", "gpu")], false)]
    #[case("NotIn", &["gpu"], &[("class", "small")], true)]
    #[case("NotIn", &["gpu"], &[], true)]
    #[case("Exists", &[], &[("class", "")], true)]
    #[case("Exists", &[], &[], false)]
    #[case("DoesNotExist", &[], &[], true)]
    #[case("DoesNotExist", &[], &[("class", "")], false)]
    fn operators_mean_what_kubernetes_says(
        #[case] operator: &str,
        #[case] values: &[&str],
        #[case] host: &[(&str, &str)],
        #[case] expected: bool,
    ) {
        let selector = Selector::parse(Some(&expression("class", operator, values))).unwrap();
        assert_eq!(selector.matches(&labels(host)), expected);
        assert_eq!(selector.mismatch(&labels(host)).is_none(), expected);
    }

    #[rstest::rstest]
    #[case("in", &["a"], "is not one of In, NotIn, Exists, DoesNotExist")]
    #[case("Gt", &["1"], "is not one of In, NotIn, Exists, DoesNotExist")]
    #[case("In", &[], "needs at least one value")]
    #[case("NotIn", &[], "needs at least one value")]
    #[case("Exists", &["a"], "takes no values")]
    #[case("DoesNotExist", &["a"], "takes no values")]
    fn an_invalid_requirement_is_an_error(
        #[case] operator: &str,
        #[case] values: &[&str],
        #[case] text: &str,
    ) {
        let error = Selector::parse(Some(&expression("class", operator, values))).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("class"), "{error}");
    }

    #[test]
    fn every_requirement_must_hold() {
        let mut selector = expression("spare", "DoesNotExist", &[]);
        selector.match_labels = Some(labels(&[("class", "gpu"), ("gen", "3")]));
        let selector = Selector::parse(Some(&selector)).unwrap();
        assert!(selector.matches(&labels(&[("class", "gpu"), ("gen", "3"), ("other", "x")])));
        assert!(!selector.matches(&labels(&[("class", "gpu"), ("gen", "3"), ("spare", "")])));
        assert!(!selector.matches(&labels(&[("class", "gpu")])));
        assert_eq!(selector.to_string(), "class=gpu,gen=3,!spare");
    }

    #[test]
    fn absent_and_empty_selectors_match_everything() {
        assert!(Selector::parse(None).unwrap().matches(&labels(&[])));
        assert!(Selector::parse(Some(&LabelSelector::default())).unwrap().matches(&labels(&[("a", "b")])));
    }

    #[test]
    fn the_blame_names_requirement_and_value() {
        let gpu = Selector::parse(Some(&expression("class", "In", &["gpu"]))).unwrap();
        assert_eq!(gpu.mismatch(&labels(&[])).unwrap(), "missing label class=gpu");
        assert_eq!(
            gpu.mismatch(&labels(&[("class", "cpu")])).unwrap(),
            "label class=cpu instead of class=gpu"
        );
    }
}
