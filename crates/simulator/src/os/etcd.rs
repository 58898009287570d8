//! Membership of etcd, through its JSON gateway: as kubeadm does it, a new member begins as a learner and is promoted
//! when it has caught up, so that it never costs the others their quorum.

use serde_json::{Value, json};

use super::kube::{Credentials, Kube, KubeError, Trust};
use super::pki::Certificate;

/// A client of one member.
pub(crate) struct EtcdClient {
    gateway: Kube,
}

impl EtcdClient {
    pub(crate) fn new(url: &str, ca_pem: &str, client: &Certificate) -> Result<Self, KubeError> {
        let credentials = Credentials::Certificate { cert_pem: &client.cert_pem, key_pem: &client.key_pem };
        Ok(Self { gateway: Kube::new(url, Trust::Authority(ca_pem), credentials)? })
    }

    /// The members, this one added as a learner if it was not among them: what `--initial-cluster` must say.
    pub(crate) async fn add_learner(&self, name: &str, peer_url: &str) -> Result<String, KubeError> {
        let mut listed = self.members().await?;
        if !holds(&listed, peer_url) {
            let member = json!({"peerURLs": [peer_url], "isLearner": true});
            listed = self.gateway.post("/v3/cluster/member/add", &member).await?;
        }
        Ok(initial_cluster(&listed, name, peer_url))
    }

    /// Makes a voter of a learner; done already is fine.
    pub(crate) async fn promote(&self, peer_url: &str) -> Result<(), String> {
        let listed = self.members().await.map_err(|error| error.to_string())?;
        let member = members(&listed).find(|member| urls(member).any(|url| url == peer_url));
        let member = member.ok_or_else(|| format!("etcd has no member {peer_url}"))?;
        if member["isLearner"] != json!(true) {
            return Ok(());
        }
        let promoted = self.gateway.post("/v3/cluster/member/promote", &json!({"ID": member["ID"]})).await;
        promoted.map(drop).map_err(|error| error.to_string())
    }

    async fn members(&self) -> Result<Value, KubeError> {
        self.gateway.post("/v3/cluster/member/list", &json!({})).await
    }
}

fn members(listed: &Value) -> impl Iterator<Item = &Value> {
    listed["members"].as_array().into_iter().flatten()
}

fn urls(member: &Value) -> impl Iterator<Item = &str> {
    member["peerURLs"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn holds(listed: &Value, peer_url: &str) -> bool {
    members(listed).any(|member| urls(member).any(|url| url == peer_url))
}

/// A member that has not started yet has no name: it is this one.
fn initial_cluster(listed: &Value, own_name: &str, own_url: &str) -> String {
    let pairs = members(listed).flat_map(|member| {
        urls(member).filter_map(move |url| {
            let known = member["name"].as_str().unwrap_or_default();
            let name = if url == own_url { own_name } else { known };
            (!name.is_empty()).then(|| format!("{name}={url}"))
        })
    });
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_joining_member_is_told() {
        let listed = json!({"members": [
            {"ID": "1", "name": "a", "peerURLs": ["https://127.64.0.1:2380"]},
            {"ID": "2", "peerURLs": ["https://127.64.0.2:2380"], "isLearner": true},
        ]});
        let told = initial_cluster(&listed, "b", "https://127.64.0.2:2380");
        assert_eq!(told, "a=https://127.64.0.1:2380,b=https://127.64.0.2:2380");
        assert!(holds(&listed, "https://127.64.0.2:2380") && !holds(&listed, "https://127.64.0.3:2380"));
    }
}
