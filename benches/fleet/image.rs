//! The image server: this program once more, so that its CPU is nobody else's.

use std::path::Path;
use std::time::Duration;

use ferric_testbed::stack::ImageServer;
use ferric_testbed::{Process, ProcessSpec};

use crate::Result;

/// First argument of the process that serves.
pub const ARGUMENT: &str = "serve-image";
const LIMIT: Duration = Duration::from_secs(20);

/// A server in its own process; killed when dropped.
pub struct Server {
    _process: Process,
    /// Where the image is.
    pub url: String,
}

impl Server {
    /// Serves a file from another process.
    pub async fn start(file: &Path, folder: &Path) -> Result<Self> {
        let told = folder.join("image-url");
        let spec =
            ProcessSpec::new("image server", std::env::current_exe()?, folder.join("image-server.log"))
                .arg(ARGUMENT)
                .arg(file)
                .arg(&told);
        let mut process = Process::spawn(spec)?;
        let url = async || match std::fs::read_to_string(&told) {
            Ok(url) if url.ends_with('\n') => Ok(()),
            Ok(_) => Err("not yet written".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        process.wait_ready("the image to be served", LIMIT, url).await?;
        let url = std::fs::read_to_string(&told)?.trim().to_owned();
        Ok(Self { _process: process, url })
    }
}

/// Serves `file` until this process is killed; writes its URL into the file `told`.
pub fn serve(file: &str, told: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = ImageServer::start(Path::new(file)).await?;
        std::fs::write(told, format!("{}\n", server.url()))?;
        std::future::pending::<()>().await;
        Ok(())
    })
}
