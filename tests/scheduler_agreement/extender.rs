//! An extender of kube-scheduler that lets everything pass and remembers what it was asked: the nodes that the filters
//! of the scheduler left for a pod, all of them and not only the one that was chosen.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

type Asked = Arc<Mutex<HashMap<String, BTreeSet<String>>>>;

/// The running extender; ended when dropped.
pub struct Extender {
    url: String,
    asked: Asked,
    _task: JoinSet<()>,
}

impl Extender {
    /// Starts it on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        let asked = Asked::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/filter", post(filter)).with_state(asked.clone());
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, asked, _task: task }
    }

    /// Where the scheduler finds it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The nodes that passed the filters when a pod of this UID was last tried; none if it was not asked.
    pub fn nodes(&self, uid: &str) -> BTreeSet<String> {
        self.asked.lock().unwrap().remove(uid).unwrap_or_default()
    }
}

/// `ExtenderArgs` and `ExtenderFilterResult` of `k8s.io/kube-scheduler/extender/v1`, which have no JSON names of their own.
async fn filter(State(asked): State<Asked>, Json(arguments): Json<Value>) -> Json<Value> {
    let uid = arguments["Pod"]["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = serde_json::from_value(arguments["NodeNames"].clone()).unwrap_or_default();
    let answer = Json(json!({ "NodeNames": names }));
    asked.lock().unwrap().insert(uid, names);
    answer
}
