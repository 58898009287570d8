//! Writes every CustomResourceDefinition of Ferric as one YAML file into the folder given.

use std::error::Error;
use std::path::PathBuf;

#[path = "../tests/types/render.rs"]
mod render;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: generate-crds <folder>")?);
    std::fs::create_dir_all(&folder)?;
    let crds = ferric_api::crds();
    let current: Vec<PathBuf> = crds.iter().map(|crd| folder.join(render::file_name(crd))).collect();
    for (crd, path) in crds.iter().zip(&current) {
        std::fs::write(path, render::file_content(crd)?)?;
        println!("{}", path.display());
    }
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "yaml") && !current.contains(&path) {
            std::fs::remove_file(&path)?;
            println!("{} removed: no such kind any more", path.display());
        }
    }
    Ok(())
}
