//! The rules of `NodeGroupAutoscaler` and `ClusterAutoscalingPolicy`.

use kube::core::Rule;

use super::rule;

/// The bounds are in order.
pub(crate) fn bounds() -> Rule {
    rule(
        "self.minReplicas <= self.maxReplicas",
        "minReplicas is greater than maxReplicas: lower minReplicas or raise maxReplicas",
    )
    .field_path(".minReplicas")
}

/// An object stays with its cluster.
pub(crate) fn cluster_immutable() -> Rule {
    rule("self == oldSelf", "clusterName cannot be changed: delete the object and make it anew")
}

/// An autoscaler stays with what it scales.
pub(crate) fn target_immutable() -> Rule {
    rule("self == oldSelf", "scaleTargetRef cannot be changed: delete the object and make it anew")
}

/// The group that the kinds belong to.
pub(crate) fn target_group() -> Rule {
    rule("self == 'cluster.x-k8s.io'", "scaleTargetRef.apiGroup must be cluster.x-k8s.io")
}

/// `3` or `10%`.
pub(crate) fn number_or_percent() -> Rule {
    rule(
        "type(self) == int ? self >= 0 && self <= 10000 : self.matches('^(100|[0-9]{1,2})%$')",
        "give a number from 0 to 10000, or a percentage from 0% to 100%",
    )
}

/// `3`, `10%` or `Remaining`.
pub(crate) fn number_percent_or_remaining() -> Rule {
    rule(
        "type(self) == int ? self >= 0 && self <= 10000 : self.matches('^((100|[0-9]{1,2})%|Remaining)$')",
        "give a number from 0 to 10000, a percentage from 0% to 100%, or Remaining",
    )
}

/// The pauses are in order.
pub(crate) fn backoff_order() -> Rule {
    rule(
        "self.initialSeconds <= self.maxSeconds",
        "initialSeconds is greater than maxSeconds: lower initialSeconds or raise maxSeconds",
    )
}

/// Members by trigger type, and whether a trigger of that type needs its member.
const MEMBERS: [(&str, &str, bool); 4] = [
    ("UnschedulablePods", "unschedulablePods", false),
    ("Utilization", "utilization", false),
    ("Prometheus", "prometheus", true),
    ("Schedule", "schedule", true),
];

/// A trigger has the details of its type and no others.
pub(crate) fn trigger_member() -> Rule {
    let members: Vec<String> = MEMBERS
        .iter()
        .map(|(kind, member, needed)| match needed {
            true => format!("(self.type == '{kind}') == has(self.{member})"),
            false => format!("(self.type == '{kind}' || !has(self.{member}))"),
        })
        .collect();
    rule(
        members.join(" && "),
        "the trigger's members do not go with its type: prometheus needs type Prometheus, schedule type Schedule, \
         utilization type Utilization, unschedulablePods type UnschedulablePods, and the first two are needed by their types",
    )
}

/// Triggers are named in metrics and conditions.
pub(crate) fn trigger_name() -> Rule {
    rule(
        "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
        "name the trigger with lower-case letters, digits and '-'",
    )
}

/// The limits of a resource leave something between them.
pub(crate) fn threshold_order() -> Rule {
    rule(
        "self.scaleDownPercent < self.scaleUpPercent",
        "scaleDownPercent must be less than scaleUpPercent, or the group would go up and down for ever",
    )
}

/// The base URL of a server, without credentials.
pub(crate) fn server_url() -> Rule {
    rule(
        r"isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != '' && !self.matches('^[^/]*//[^/?#]*@')",
        "serverURL must be http://<host>[:port][/path] or https://…, without user and password: these go into the Secret \
         that credentialsName names",
    )
}

/// A number that is worth dividing by.
pub(crate) fn positive_quantity() -> Rule {
    rule(
        "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
        "the target value must be a positive number, e.g. 50, 0.5 or 100m",
    )
}

/// Five fields of a crontab; what they say exactly is checked when it is used.
pub(crate) fn cron() -> Rule {
    rule(
        r"self.matches('^[0-9A-Za-z*/,?#LW-]+( +[0-9A-Za-z*/,?#LW-]+){4}$')",
        "cron must have five fields: minute, hour, day of the month, month, day of the week, e.g. 0 7 * * 1-5",
    )
}

/// Limits are quantities of named resources.
pub(crate) fn limit_quantities() -> Rule {
    rule(
        "self.all(name, name.size() <= 317 && isQuantity(self[name]) && \
         quantity(self[name]).compareTo(quantity('0')) >= 0)",
        "a limit must be a quantity that is not negative, e.g. nodes: \"40\", cpu: \"512\", memory: 2Ti, \
         nvidia.com/gpu: \"16\"",
    )
}
