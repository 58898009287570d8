//! Calls to the API server, each with a deadline and an error that says what to do about it.
//!
//! kube's client has no read timeout on plain requests and silently retries up to 15 times, so every call of the
//! manager goes through here. A call that timed out may nevertheless have been carried out: read again before
//! deciding anything.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The name under which the API server books the fields that we write.
pub const FIELD_MANAGER: &str = "ferric-manager";
/// How long one call may take, kube's own retries included.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Why a call to the API server did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The object changed since it was read; read it again and decide anew.
    #[error("{call}: the object changed since it was read")]
    Conflict {
        /// The call.
        call: String,
    },
    /// An object of this name is already there.
    #[error("{call}: an object of this name is already there")]
    AlreadyExists {
        /// The call.
        call: String,
    },
    /// There is no such object.
    #[error("{call}: not found")]
    NotFound {
        /// The call.
        call: String,
    },
    /// The manager may not do this.
    #[error("{call}: forbidden; {remedy} ({message})")]
    Forbidden {
        /// The call.
        call: String,
        /// Which permission is missing, as a sentence.
        remedy: String,
        /// The API server's words.
        message: String,
    },
    /// The API server refused the content (schema, CEL or admission policy).
    #[error("{call}: refused: {message}")]
    Invalid {
        /// The call.
        call: String,
        /// The API server's words.
        message: String,
    },
    /// No answer within [`DEADLINE`]; the call may or may not have been carried out.
    #[error("{call}: no answer within {} s", .after.as_secs())]
    Timeout {
        /// The call.
        call: String,
        /// The deadline.
        after: Duration,
    },
    /// Anything else: the API server is unreachable, overloaded or answered what cannot be parsed.
    #[error("{call}: {source}")]
    Other {
        /// The call.
        call: String,
        /// What kube said.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ApiError {
    /// Sorts kube's error; `call` is what was tried.
    pub fn from_kube(call: &Call<'_>, error: kube::Error) -> Self {
        let kube::Error::Api(status) = &error else {
            return Self::Other { call: call.to_string(), source: Box::new(error) };
        };
        match (status.code, status.reason.as_str()) {
            (409, "AlreadyExists") => Self::AlreadyExists { call: call.to_string() },
            (409, _) => Self::Conflict { call: call.to_string() },
            (404, _) => Self::NotFound { call: call.to_string() },
            (403, _) => forbidden(call, status),
            (400 | 422, _) => Self::Invalid { call: call.to_string(), message: status.message.clone() },
            _ => Self::Other { call: call.to_string(), source: Box::new(error) },
        }
    }

    /// The object changed since it was read.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// There is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// An object of this name is already there.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. })
    }

    /// One word for the metric `ferric_errors_total`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "ApiConflict",
            Self::AlreadyExists { .. } => "ApiAlreadyExists",
            Self::NotFound { .. } => "ApiNotFound",
            Self::Forbidden { .. } => "ApiForbidden",
            Self::Invalid { .. } => "ApiInvalid",
            Self::Timeout { .. } => "ApiTimeout",
            Self::Other { .. } => "ApiOther",
        }
    }
}

/// RBAC and admission policies both answer 403; only the former is mended by a permission.
fn forbidden(call: &Call<'_>, status: &Status) -> ApiError {
    let rbac = status.message.contains("cannot ");
    let remedy = if rbac {
        format!("grant the manager's service account {}", call.permission())
    } else {
        "an admission policy or quota refuses it".to_owned()
    };
    ApiError::Forbidden { call: call.to_string(), remedy, message: status.message.clone() }
}

/// What a call does, for errors. Only formatted when something goes wrong.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// RBAC verb.
    pub verb: &'static str,
    /// API group, empty for the core group.
    pub group: String,
    /// Plural of the kind.
    pub plural: String,
    /// Subresource, or empty.
    pub subresource: &'static str,
    /// Namespace, if the call has one.
    pub namespace: Option<&'a str>,
    /// Name of the object.
    pub name: &'a str,
}

impl<'a> Call<'a> {
    /// The call `verb` on the object `name` behind `api`.
    pub fn new<K>(api: &'a Api<K>, verb: &'static str, subresource: &'static str, name: &'a str) -> Self
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Self {
            verb,
            group: K::group(&()).into_owned(),
            plural: K::plural(&()).into_owned(),
            subresource,
            namespace: api.namespace(),
            name,
        }
    }

    /// The permission that the call needs, e.g. `verb "patch" on "baremetalhosts/status" of group "…" in namespace "x"`.
    pub fn permission(&self) -> String {
        let slash = if self.subresource.is_empty() { "" } else { "/" };
        let group = if self.group.is_empty() {
            "the core group".to_owned()
        } else {
            format!("group {:?}", self.group)
        };
        let place = self.namespace.map(|n| format!(" in namespace {n:?}")).unwrap_or_default();
        format!("verb {:?} on \"{}{slash}{}\" of {group}{place}", self.verb, self.plural, self.subresource)
    }
}

impl std::fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.plural)?;
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        match self.namespace {
            Some(namespace) => write!(f, " {namespace}/{}", self.name),
            None => write!(f, " {}", self.name),
        }
    }
}

/// Runs one kube call under [`DEADLINE`] and sorts its error. For calls that have no helper here.
pub async fn bounded<T>(
    call: Call<'_>,
    future: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    bounded_by(DEADLINE, call, future).await
}

async fn bounded_by<T>(
    after: Duration,
    call: Call<'_>,
    future: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(after, future).await {
        Ok(result) => result.map_err(|error| ApiError::from_kube(&call, error)),
        Err(_) => Err(ApiError::Timeout { call: call.to_string(), after }),
    }
}

/// Reads one object from the API server (not from a cache).
pub async fn get<K>(api: &Api<K>, name: &str) -> Result<K, ApiError>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    bounded(Call::new(api, "get", "", name), api.get(name)).await
}

/// Reads one object; `None` if there is none.
pub async fn get_opt<K>(api: &Api<K>, name: &str) -> Result<Option<K>, ApiError>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    bounded(Call::new(api, "get", "", name), api.get_opt(name)).await
}

/// Creates one object.
pub async fn create<K>(api: &Api<K>, object: &K) -> Result<K, ApiError>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Serialize,
{
    let name = object.meta().name.as_deref().unwrap_or_default();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    bounded(Call::new(api, "create", "", name), api.create(&params, object)).await
}

/// Replaces one object; a conflict if its `metadata.resourceVersion` is not the current one. Only for objects that
/// are ours alone (Lease, key Secret): a full update would take other people's fields along.
pub async fn replace<K>(api: &Api<K>, object: &K) -> Result<K, ApiError>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Serialize,
{
    let name = object.meta().name.as_deref().unwrap_or_default();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    bounded(Call::new(api, "update", "", name), api.replace(name, &params, object)).await
}

/// JSON merge patch of an object. With `resource_version` it is a compare-and-swap: a conflict if the object changed.
pub async fn merge_patch<K>(
    api: &Api<K>,
    name: &str,
    resource_version: Option<&str>,
    value: Value,
) -> Result<K, ApiError>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let patch = Patch::Merge(with_precondition(value, resource_version));
    bounded(Call::new(api, "patch", "", name), api.patch(name, &params(), &patch)).await
}

/// JSON merge patch of an object's status (`value` holds the key `status`). With `resource_version` it is a
/// compare-and-swap.
pub async fn merge_patch_status<K>(
    api: &Api<K>,
    name: &str,
    resource_version: Option<&str>,
    value: Value,
) -> Result<K, ApiError>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let patch = Patch::Merge(with_precondition(value, resource_version));
    bounded(Call::new(api, "patch", "status", name), api.patch_status(name, &params(), &patch)).await
}

/// Deletes one object if it is still the one of that UID; `Ok` if it is gone already.
pub async fn delete<K>(api: &Api<K>, name: &str, uid: Option<&str>) -> Result<(), ApiError>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let params = DeleteParams {
        preconditions: uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    let call = Call::new(api, "delete", "", name);
    match bounded(call, async { api.delete(name, &params).await.map(|_| ()) }).await {
        Err(ApiError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() }
}

/// Puts the resourceVersion into the patch, where the API server compares it.
fn with_precondition(mut value: Value, resource_version: Option<&str>) -> Value {
    if let (Some(version), Some(object)) = (resource_version, value.as_object_mut()) {
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("resourceVersion".into(), Value::String(version.to_owned()));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use rstest::rstest;

    fn call() -> Call<'static> {
        Call {
            verb: "patch",
            group: "infrastructure.cluster.x-k8s.io".into(),
            plural: "baremetalhosts".into(),
            subresource: "status",
            namespace: Some("racks"),
            name: "host-1",
        }
    }

    fn api_error(code: u16, reason: &str, message: &str) -> ApiError {
        let status = Status { code, reason: reason.into(), message: message.into(), ..Status::default() };
        ApiError::from_kube(&call(), kube::Error::Api(status.boxed()))
    }

    #[rstest]
    #[case(409, "Conflict", "ApiConflict")]
    #[case(409, "AlreadyExists", "ApiAlreadyExists")]
    #[case(404, "NotFound", "ApiNotFound")]
    #[case(403, "Forbidden", "ApiForbidden")]
    #[case(422, "Invalid", "ApiInvalid")]
    #[case(400, "BadRequest", "ApiInvalid")]
    #[case(500, "InternalError", "ApiOther")]
    #[case(429, "TooManyRequests", "ApiOther")]
    fn answers_are_sorted(#[case] code: u16, #[case] reason: &str, #[case] expected: &str) {
        assert_eq!(api_error(code, reason, "x").reason(), expected);
    }

    #[test]
    fn a_missing_permission_is_named() {
        let error =
            api_error(403, "Forbidden", "baremetalhosts is forbidden: User \"u\" cannot patch resource");
        assert_eq!(
            error.to_string(),
            "patch baremetalhosts/status racks/host-1: forbidden; grant the manager's service account verb \"patch\" \
             on \"baremetalhosts/status\" of group \"infrastructure.cluster.x-k8s.io\" in namespace \"racks\" \
             (baremetalhosts is forbidden: User \"u\" cannot patch resource)"
        );
    }

    #[test]
    fn a_policy_is_not_taken_for_a_missing_permission() {
        let error = api_error(403, "Forbidden", "ValidatingAdmissionPolicy 'x' denied request: no");
        assert!(error.to_string().contains("an admission policy or quota refuses it"), "{error}");
    }

    #[rstest]
    #[case(json!({"spec": {}}), Some("7"), json!({"spec": {}, "metadata": {"resourceVersion": "7"}}))]
    #[case(json!({"metadata": {"labels": {"a": "b"}}}), Some("7"),
           json!({"metadata": {"labels": {"a": "b"}, "resourceVersion": "7"}}))]
    #[case(json!({"spec": {}}), None, json!({"spec": {}}))]
    fn the_precondition_travels_in_the_patch(
        #[case] value: Value,
        #[case] version: Option<&str>,
        #[case] expected: Value,
    ) {
        assert_eq!(with_precondition(value, version), expected);
    }

    #[tokio::test]
    async fn a_call_without_an_answer_ends() {
        let result = bounded_by(Duration::ZERO, call(), std::future::pending::<kube::Result<()>>()).await;
        assert_eq!(
            result.unwrap_err().to_string(),
            "patch baremetalhosts/status racks/host-1: no answer within 0 s"
        );
    }
}
