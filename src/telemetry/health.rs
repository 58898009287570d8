//! Plain-HTTP servers for probes (`/healthz`, `/readyz`) and for `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Metrics;

/// Whether the manager is ready; `Err` holds what it waits for.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Serves `/healthz` (the process answers) and `/readyz` (200, or 503 with what is waited for) until `stop`.
pub async fn serve_health(
    listener: TcpListener,
    ready: Readiness,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    serve(listener, health_router(ready), stop).await
}

/// Serves `/metrics` until `stop`.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    serve(listener, metrics_router(metrics), stop).await
}

async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> anyhow::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await?;
    Ok(())
}

/// The routes of the health server.
pub fn health_router(ready: Readiness) -> Router {
    Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(readyz)).with_state(ready)
}

/// The routes of the metrics server.
pub fn metrics_router(metrics: Arc<Metrics>) -> Router {
    Router::new().route("/metrics", get(metrics_page)).with_state(metrics)
}

async fn readyz(State(ready): State<Readiness>) -> impl IntoResponse {
    match ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(waiting_for) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {waiting_for}\n")),
    }
}

async fn metrics_page(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], metrics.encode())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_says_what_it_waits_for() {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = flag.clone();
        let router = health_router(Arc::new(move || {
            if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("the list of hosts".to_owned()) }
        }));
        assert_eq!(ask(&router, "/healthz").await.0, StatusCode::OK);
        let (status, body) = ask(&router, "/readyz").await;
        assert_eq!(
            (status, body.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: the list of hosts\n")
        );
        flag.store(true, Ordering::Relaxed);
        assert_eq!(ask(&router, "/readyz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_served() {
        let (status, body) = ask(&metrics_router(Arc::new(Metrics::new())), "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("ferric_build_info{version="), "{body}");
    }
}
