//! temp
use overlaybd::blob::{Blob, FileBlob};
use overlaybd::device::BlockDevice;
use overlaybd::lsmt::{commit::CommitOptions, import::import, upper};
use overlaybd::serve::nbd::{Options, Server};
use overlaybd::sink::{FileSink, Sink};
use overlaybd::sys::{os::OsDisk, Disk, Mode};
use overlaybd::zfile;
use std::path::Path;
use std::sync::Arc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    if a[1] == "build" {
        let src = OsDisk.open(Path::new(&a[2]), Mode::Read).unwrap();
        let size = src.len().unwrap();
        let out = OsDisk.open(Path::new(&a[3]), Mode::New).unwrap();
        let mut b = zfile::Builder::new(FileSink::new(out), zfile::Options::default()).unwrap();
        import(&*src, size, &CommitOptions::default(), &mut b, &mut |_, _| Ok(())).unwrap();
        b.finish().unwrap();
        return;
    }
    let lower: Arc<dyn Blob> = Arc::new(FileBlob::open(&OsDisk, Path::new(&a[2])).unwrap());
    let up = a.get(4).map(|d| (format!("{d}.data"), format!("{d}.index")));
    if let Some((d, i)) = &up {
        upper::create(&OsDisk, Path::new(d), Path::new(i), &upper::CreateOptions::default()).unwrap();
    }
    let img =
        overlaybd::image::open(&OsDisk, vec![lower], up.as_ref().map(|(d, i)| (Path::new(d), Path::new(i)))).unwrap();
    let dev: Arc<dyn BlockDevice> = Arc::new(img);
    let s = Server::start(vec![("".into(), dev)], &a[3], Options::default()).unwrap();
    eprintln!("{}", s.address());
    std::thread::park();
}
