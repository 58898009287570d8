//! Clusters on a stack's hosts, made as a user makes them: `clusterctl generate cluster … | kubectl apply`.

use std::ffi::OsString;

use serde::Deserialize as _;
use serde_json::Value;

use crate::assets::KUBERNETES_VERSION;
use crate::bed::Bed;
use crate::error::{Error, Result};
use crate::ports::Port;
use crate::stack::ServedImage;
use crate::workload::Workload;

const EXTERNAL_TEMPLATE: &str = include_str!("../../manifests/cluster-template-external.yaml");

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterRequest<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where its objects are.
    pub namespace: &'a str,
    /// Replicas of its MachineDeployment `<name>-workers`.
    pub workers: usize,
    /// What is written to its hosts.
    pub image: &'a ServedImage,
    /// Further variables of the template.
    pub variables: Vec<(&'a str, &'a str)>,
}

/// A cluster whose objects were applied, and what of it lives outside of hosts.
#[derive(Debug)]
pub struct Created {
    /// Objects that were applied.
    pub objects: usize,
    /// `host:port` of its API server.
    pub endpoint: String,
    /// Its control plane, if that is not on hosts. Dropping it ends it.
    pub workload: Option<Workload>,
    /// The port of its endpoint, if that is on hosts.
    _port: Option<Port>,
}

impl ClusterRequest<'_> {
    /// From the provider's own template: a KubeadmControlPlane of `replicas` on hosts.
    pub async fn create_with_kubeadm(&self, bed: &Bed, replicas: usize) -> Result<Created> {
        let port = Port::reserve()?;
        let replicas = replicas.to_string();
        let args = ["--infrastructure", "ferric", "--control-plane-machine-count", &replicas];
        let endpoint = format!("127.0.0.1:{}", port.number());
        let objects = self.apply(bed, &endpoint, args.into_iter().map(OsString::from)).await?;
        Ok(Created { objects, endpoint, workload: None, _port: Some(port) })
    }

    /// The same at an endpoint that leads to a host, with a change to the KubeadmControlPlane.
    pub async fn create_with_kubeadm_at(
        &self,
        bed: &Bed,
        endpoint: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Created> {
        let args = ["--infrastructure", "ferric", "--control-plane-machine-count", "1"];
        let manifests = self.generate(bed, endpoint, args.into_iter().map(OsString::from)).await?;
        let manifests = changed(&manifests, "KubeadmControlPlane", change)?;
        let objects = bed.apply(&manifests).await?.lines().count();
        Ok(Created { objects, endpoint: endpoint.to_owned(), workload: None, _port: None })
    }

    /// With a stand-in: a control plane that runs beside the fleet and that nobody manages.
    pub async fn create_with_external_control_plane(&self, bed: &Bed) -> Result<Created> {
        let workload = bed.start_workload(self.name).await?;
        self.create_with_workload(bed, workload).await
    }

    /// With a stand-in that runs already.
    pub async fn create_with_workload(&self, bed: &Bed, workload: Workload) -> Result<Created> {
        bed.install_external_control_plane().await?;
        let client = bed.client();
        workload.create_secrets(&client, self.namespace, self.name).await?;
        workload.create_external_control_plane(&client, self.namespace, self.name).await?;
        let template = bed.dir().join("cluster-template-external.yaml");
        std::fs::write(&template, EXTERNAL_TEMPLATE).map_err(Error::file("write", &template))?;
        let endpoint = workload.control_plane().url().trim_start_matches("https://").to_owned();
        let args = [OsString::from("--from"), template.into_os_string()];
        let objects = self.apply(bed, &endpoint, args).await?;
        Ok(Created { objects, endpoint, workload: Some(workload), _port: None })
    }

    async fn apply(
        &self,
        bed: &Bed,
        endpoint: &str,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<usize> {
        let manifests = self.generate(bed, endpoint, args).await?;
        Ok(bed.apply(&manifests).await?.lines().count())
    }

    /// What `clusterctl generate cluster` makes of a template.
    async fn generate(
        &self,
        bed: &Bed,
        endpoint: &str,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<String> {
        let workers = self.workers.to_string();
        let fixed = [
            "generate",
            "cluster",
            self.name,
            "--target-namespace",
            self.namespace,
            "--kubernetes-version",
            KUBERNETES_VERSION,
            "--worker-machine-count",
            &workers,
        ];
        let (host, port) =
            endpoint.rsplit_once(':').ok_or_else(|| Error::malformed(endpoint, "an endpoint has a port"))?;
        let mut variables = vec![
            ("CONTROL_PLANE_ENDPOINT_HOST", host),
            ("CONTROL_PLANE_ENDPOINT_PORT", port),
            ("IMAGE_URL", self.image.url.as_str()),
            ("IMAGE_CHECKSUM", self.image.sha256.as_str()),
        ];
        variables.extend(&self.variables);
        let args = fixed.into_iter().map(OsString::from).chain(args);
        bed.clusterctl(args, &variables).await
    }
}

/// The same manifests with a change to the object of this kind.
fn changed(manifests: &str, kind: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
    let malformed = |error: serde_yaml_ng::Error| Error::malformed("what clusterctl generated", error);
    let documents = serde_yaml_ng::Deserializer::from_str(manifests).map(Value::deserialize);
    let mut objects: Vec<Value> = documents.collect::<std::result::Result<_, _>>().map_err(malformed)?;
    let object = objects.iter_mut().find(|object| object["kind"] == kind);
    change(object.ok_or_else(|| Error::malformed("what clusterctl generated", format!("it has no {kind}")))?);
    Ok(objects.iter().map(|object| format!("{object}\n---\n")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_object_is_changed() {
        let manifests = "kind: A\nspec: {n: 1}\n---\nkind: B\nspec: {n: 1}\n";
        let change = |object: &mut Value| object["spec"]["n"] = 2.into();
        let objects = "{\"kind\":\"A\",\"spec\":{\"n\":1}}\n---\n{\"kind\":\"B\",\"spec\":{\"n\":2}}\n---\n";
        assert_eq!(changed(manifests, "B", change).unwrap(), objects);
        assert!(changed(manifests, "C", change).is_err());
    }
}
