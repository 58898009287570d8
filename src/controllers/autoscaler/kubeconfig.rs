//! How a workload cluster is reached: the kubeconfig that Cluster API keeps in the Secret `<cluster>-kubeconfig`.
//!
//! A kubeconfig is a program as much as an address: it may name commands to run and files to read. Whoever may write the
//! Secret must not run anything in the manager by that, nor have its files sent anywhere, so only what is in the
//! kubeconfig itself is taken.

use kube::config::{AuthInfo, Kubeconfig};

/// Key of the Secret's data (Cluster API contract: "Kubeconfig Secret").
pub(super) const SECRET_KEY: &str = "value";
/// End of the Secret's name, after that of the Cluster.
pub(super) const SUFFIX: &str = "-kubeconfig";

/// Why a kubeconfig is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KubeconfigError {
    /// It is none.
    #[error("key value of the Secret is no kubeconfig")]
    Unreadable,
    /// It names a command or a file.
    #[error(
        "the kubeconfig uses {0}, which is not followed: put certificates, keys or a token into the kubeconfig itself"
    )]
    Refused(&'static str),
}

/// Reads a kubeconfig and refuses what reaches out of it. The error never quotes it.
pub(super) fn read(text: &[u8]) -> Result<Kubeconfig, KubeconfigError> {
    let text = std::str::from_utf8(text).map_err(|_| KubeconfigError::Unreadable)?;
    let config = Kubeconfig::from_yaml(text).map_err(|_| KubeconfigError::Unreadable)?;
    for user in config.auth_infos.iter().filter_map(|named| named.auth_info.as_ref()) {
        if let Some(what) = outward(user) {
            return Err(KubeconfigError::Refused(what));
        }
    }
    for cluster in config.clusters.iter().filter_map(|named| named.cluster.as_ref()) {
        if cluster.certificate_authority.is_some() {
            return Err(KubeconfigError::Refused("certificate-authority"));
        }
        if cluster.proxy_url.is_some() {
            return Err(KubeconfigError::Refused("proxy-url"));
        }
    }
    Ok(config)
}

fn outward(user: &AuthInfo) -> Option<&'static str> {
    let uses = [
        (user.exec.is_some(), "exec"),
        (user.auth_provider.is_some(), "auth-provider"),
        (user.token_file.is_some(), "tokenFile"),
        (user.client_certificate.is_some(), "client-certificate"),
        (user.client_key.is_some(), "client-key"),
    ];
    uses.into_iter().find_map(|(used, what)| used.then_some(what))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn config(user: &str, cluster: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: \"https://10.0.0.1:6443\"{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    #[rstest]
    #[case::what_cluster_api_writes(
        "client-certificate-data: YQ==, client-key-data: YQ==",
        ", certificate-authority-data: YQ==",
        None
    )]
    #[case::a_token("token: abc", "", None)]
    #[case::a_command(
        "exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, interactiveMode: Never}",
        "",
        Some("exec")
    )]
    #[case::a_plugin("auth-provider: {name: gcp, config: {cmd-path: sh}}", "", Some("auth-provider"))]
    #[case::a_file_as_token(
        "tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token",
        "",
        Some("tokenFile")
    )]
    #[case::a_file_as_key("client-certificate-data: YQ==, client-key: /etc/key", "", Some("client-key"))]
    #[case::a_file_as_certificate("client-certificate: /etc/cert", "", Some("client-certificate"))]
    #[case::a_file_as_authority(
        "token: abc",
        ", certificate-authority: /etc/ca",
        Some("certificate-authority")
    )]
    #[case::a_proxy("token: abc", ", proxy-url: \"http://elsewhere\"", Some("proxy-url"))]
    fn what_reaches_out_is_refused(
        #[case] user: &str,
        #[case] cluster: &str,
        #[case] refused: Option<&'static str>,
    ) {
        let found = read(config(user, cluster).as_bytes());
        assert_eq!(found.err(), refused.map(KubeconfigError::Refused));
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(error) = read(&bytes) {
                let said = error.to_string();
                prop_assert!(said.len() < 200);
            }
        }
    }
}
