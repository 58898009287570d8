//! Images onto disks: writes one and configures it, writes one and leaves it at that, or finds one that was written before.
//!
//! What an earlier agent wrote is made use of only if all of it, read from the disk now, hashes to what it hashed to then.
//! Whatever else is found, or nothing, the image is written as ever.

use std::{sync::Arc, time::Instant};

use ferric_image::{
    Arch, BlockDevice, GptError, ImageError, WipeMode, Written, clear_end, fit_partition_table, prove_image,
    wipe, write_image,
};
use ferric_protocol::{
    tls::image_client_config,
    v1::{Deploy, DeployResult, Disk, Phase, Stage, StageResult, TaskError, TaskErrorCode},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Platform,
    boot_entry::{self, BootEntry},
    download::{self, Download, ImageReader},
    load_option::Place,
    plan::{self, Drive, StagedPlan, WritePlan},
    worker::{Observer, Shared, Worker, blocking, milliseconds, open},
};

impl Worker {
    /// The image onto the disk, unless it is there already, and all that the machine starts with beside it.
    pub(crate) async fn deploy(
        &self,
        id: &str,
        task: &Deploy,
        cancel: &CancellationToken,
    ) -> Result<DeployResult, TaskError> {
        let started = Instant::now();
        let disks = self.inventory().await?.disks;
        let options = &self.options;
        let plan = plan::deploy(task, &disks, options.min_root_bytes, options.block_bytes)?;
        let _permit = self.write_permit(cancel).await?;
        let found = match plan.staged {
            None => Found::Nothing,
            Some(staged) => {
                let job = StagedJob {
                    platform: self.platform.clone(),
                    observer: self.observer(id, cancel, &plan.image.disk.name),
                    disk: plan.image.disk.clone(),
                    block_bytes: options.block_bytes,
                    staged,
                };
                blocking(move || job.run()).await?
            }
        };
        let (device, mut result) = match found {
            Found::Kept { device, bytes, content } => {
                let content_hash = content.to_string();
                let result = DeployResult {
                    kept_staged: true,
                    bytes_written: bytes,
                    content_hash,
                    ..Default::default()
                };
                (device, result)
            }
            found => {
                let (device, written) = self.write(id, &plan.image, cancel).await?;
                let staged_problem = if let Found::Not(why) = found { why } else { String::new() };
                let result = DeployResult {
                    bytes_read: written.bytes_read,
                    bytes_written: written.bytes_written,
                    download_digest: written.download.hex().to_owned(),
                    content_hash: written.content.to_string(),
                    staged_problem,
                    ..Default::default()
                };
                (device, result)
            }
        };
        let job = ConfigureJob {
            platform: self.platform.clone(),
            shared: self.shared.clone(),
            id: id.to_owned(),
            device,
            disk: plan.image.disk.clone(),
            config_drive: plan.config_drive,
            load_kernel: plan.load_kernel,
            place: plan.place,
        };
        let (boot, kernel) = blocking(move || job.run()).await?;
        match kernel {
            None => {}
            Some(Ok(title)) => result.loaded_kernel = title,
            Some(Err(why)) => result.load_problem = why,
        }
        (result.boot_entry, result.boot_warning) = (boot.entry, boot.warning);
        (result.root_device, result.root_serial) = (plan.image.disk.name, plan.image.disk.serial_number);
        result.duration_ms = milliseconds(started.elapsed());
        Ok(result)
    }

    /// The image onto the disk, and nothing beside it.
    pub(crate) async fn stage(
        &self,
        id: &str,
        task: &Stage,
        cancel: &CancellationToken,
    ) -> Result<StageResult, TaskError> {
        let started = Instant::now();
        let disks = self.inventory().await?.disks;
        let plan = plan::stage(task, &disks, self.options.min_root_bytes, self.options.block_bytes)?;
        let _permit = self.write_permit(cancel).await?;
        let (_, written) = self.write(id, &plan, cancel).await?;
        Ok(StageResult {
            root_device: plan.disk.name,
            root_serial: plan.disk.serial_number,
            root_wwn: plan.disk.wwn,
            bytes_read: written.bytes_read,
            bytes_written: written.bytes_written,
            content_hash: written.content.to_string(),
            duration_ms: milliseconds(started.elapsed()),
        })
    }

    /// Downloads the image, writes it and reads it back.
    async fn write(
        &self,
        id: &str,
        plan: &WritePlan,
        cancel: &CancellationToken,
    ) -> Result<(Box<dyn BlockDevice>, Written), TaskError> {
        self.shared.report(id, Phase::Writing, 0, None, &plan.disk.name);
        let download = tokio::select! {
            () = cancel.cancelled() => Err(plan::error(TaskErrorCode::Cancelled, "cancelled before the download")),
            download = self.start_download(plan) => download,
        }?;
        let mut plan = plan.clone();
        plan.write.download_bytes = download.total();
        let (feeder, reader) = download::queue();
        let job = WriteJob {
            platform: self.platform.clone(),
            observer: self.observer(id, cancel, &plan.disk.name),
            plan,
        };
        let feeding = async {
            // When this is cancelled the feeder is dropped, and the reader with it comes to an end.
            tokio::select! {
                () = cancel.cancelled() => {}
                () = feeder.feed(download) => {}
            }
        };
        let (done, ()) = tokio::join!(blocking(move || job.run(reader)), feeding);
        done
    }

    async fn start_download(&self, plan: &WritePlan) -> Result<Download, TaskError> {
        let unavailable =
            |e: &dyn std::fmt::Display| plan::error(TaskErrorCode::ImageUnavailable, e.to_string());
        let tls = if plan.ca_pem.is_empty() {
            self.tls.clone()
        } else {
            image_client_config(&plan.ca_pem, self.clock.clone())
                .map_err(|e| plan::error(TaskErrorCode::InvalidTask, format!("the image's CA: {e}")))?
        };
        let client = download::client(tls, &self.options).map_err(|e| unavailable(&e))?;
        Download::start(client, plan.url.clone(), &self.options).await.map_err(|e| unavailable(&e))
    }
}

/// The part of a write that runs on a thread of its own.
struct WriteJob {
    platform: Arc<dyn Platform>,
    observer: Observer,
    plan: WritePlan,
}

impl WriteJob {
    fn run(mut self, mut image: ImageReader) -> Result<(Box<dyn BlockDevice>, Written), TaskError> {
        let WritePlan { disk, write, .. } = &self.plan;
        let mut device = open(&*self.platform, disk)?;
        let observer = &mut self.observer;
        let written =
            write_image(&mut image, &mut *device, write, &mut |progress| observer.observe(progress))
                .map_err(|e: ImageError| plan::image_error(disk, &e))?;
        Ok((device, written))
    }
}

/// What there is of an image that was staged.
enum Found {
    /// Nothing was said to be there.
    Nothing,
    /// All of it is on the disk that is to have it.
    Kept { device: Box<dyn BlockDevice>, bytes: u64, content: ferric_image::ContentHash },
    /// It is not to be used, for this reason.
    Not(String),
}

/// Looks for an image that was staged, on a thread of its own.
struct StagedJob {
    platform: Arc<dyn Platform>,
    observer: Observer,
    /// The disk that is to have the image.
    disk: Disk,
    block_bytes: usize,
    staged: StagedPlan,
}

impl StagedJob {
    fn run(mut self) -> Result<Found, TaskError> {
        for other in std::mem::take(&mut self.staged.elsewhere) {
            self.wipe_elsewhere(&other)?;
        }
        let content = match &self.staged.content {
            Ok(content) => *content,
            Err(why) => return Ok(Found::Not(why.clone())),
        };
        if !self.staged.same_image {
            return Ok(Found::Not("another image was staged".to_owned()));
        }
        if !self.staged.on_chosen {
            return Ok(Found::Not(format!("it was staged on another disk than {}", self.disk.name)));
        }
        let disk = self.disk.clone();
        let mut device = open(&*self.platform, &disk)?;
        let bytes = self.staged.bytes;
        match self.prove(&mut *device, &content) {
            Ok(()) => {}
            Err(ImageError::Verify { .. }) => {
                let why = format!("{} does not hold what was written to it any more", disk.name);
                tracing::warn!(disk = disk.name, "the staged image was changed; it is written anew");
                return Ok(Found::Not(why));
            }
            Err(e @ (ImageError::Cancelled { .. } | ImageError::Threads(_))) => {
                return Err(plan::image_error(&disk, &e));
            }
            // If the disk is broken, the write says so.
            Err(e) => return Ok(Found::Not(plan::image_error(&disk, &e).message)),
        }
        clear_end(&mut *device, bytes, self.block_bytes).map_err(|e| plan::image_error(&disk, &e))?;
        Ok(Found::Kept { device, bytes, content })
    }

    fn prove(
        &mut self,
        device: &mut dyn BlockDevice,
        content: &ferric_image::ContentHash,
    ) -> Result<(), ImageError> {
        let (bytes, block_bytes, observer) = (self.staged.bytes, self.block_bytes, &mut self.observer);
        prove_image(device, content, bytes, block_bytes, &mut |progress| observer.observe(progress))
    }

    /// Of two disks with bootable images firmware or kernel may take the wrong one. A disk is wiped only if it was read to
    /// hold exactly what we wrote to it: then nothing is lost.
    fn wipe_elsewhere(&mut self, other: &Disk) -> Result<(), TaskError> {
        let Ok(content) = self.staged.content else { return Ok(()) };
        let mut device = match open(&*self.platform, other) {
            Ok(device) => device,
            Err(error) => {
                tracing::warn!(
                    disk = other.name,
                    error = error.message,
                    "the staged image is not looked for"
                );
                return Ok(());
            }
        };
        match self.prove(&mut *device, &content) {
            Ok(()) => {}
            Err(e @ (ImageError::Cancelled { .. } | ImageError::Threads(_))) => {
                return Err(plan::image_error(other, &e));
            }
            Err(error) => {
                tracing::warn!(disk = other.name, %error, "the disk does not hold the staged image, it is left alone");
                return Ok(());
            }
        }
        tracing::info!(disk = other.name, "the staged image is wiped: the image goes to another disk");
        let observer = &mut self.observer;
        wipe(&mut *device, WipeMode::Metadata, &mut |progress| observer.observe(progress))
            .map_err(|e| plan::wipe_error(other, &e))?;
        Ok(())
    }
}

/// What follows a write, on a thread of its own.
struct ConfigureJob {
    platform: Arc<dyn Platform>,
    shared: Arc<Shared>,
    id: String,
    device: Box<dyn BlockDevice>,
    disk: Disk,
    config_drive: Option<Drive>,
    load_kernel: bool,
    place: Place,
}

/// The kernel that was loaded, or why none was; nothing where it was not asked for.
type Loaded = Option<Result<String, String>>;

impl ConfigureJob {
    fn run(self) -> Result<(BootEntry, Loaded), TaskError> {
        let Self { platform, shared, id, mut device, disk, config_drive, load_kernel, place } = self;
        shared.report(&id, Phase::Configuring, 0, None, &disk.name);
        let configured = match &config_drive {
            Some(drive) => drive.write(&mut *device).map(|_| ()).map_err(|e| plan::config_drive_error(&e)),
            None => match fit_partition_table(&mut *device) {
                // An image without a GPT needs no backup at the disk's end.
                Ok(()) | Err(GptError::NoHeader { .. }) => Ok(()),
                Err(e) => Err(plan::config_drive_error(&e.into())),
            },
        };
        if let Err(error) = configured {
            // A machine without its configuration must not boot by accident.
            let head = device.size().min(1 << 20);
            let _ = device.write_zeroes(0, head).and_then(|()| device.sync());
            return Err(error);
        }
        let boot = match (platform.firmware_variables(), Arch::own()) {
            (Some(firmware), Some(arch)) => boot_entry::set(&*firmware, &mut *device, arch, place)
                .map_err(|message| plan::error(TaskErrorCode::NoBootLoader, message))?,
            _ => BootEntry::default(),
        };
        // The kernel reads the partitions of a disk that nobody has for itself.
        drop(device);
        let kernel = load_kernel.then(|| platform.load_kernel(&disk.name));
        if let Some(Err(why)) = &kernel {
            tracing::warn!(disk = disk.name, why, "the kernel of the written disk is not loaded");
        }
        Ok((boot, kernel))
    }
}
