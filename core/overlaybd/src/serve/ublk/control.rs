//! `/dev/ublk-control`: makes, starts, stops, removes devices, and tells of them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue, IoUring};
use parking_lot::Mutex;

use super::abi::{control, control_command, Info, Parameters, FEATURE_BYTES, INFO_BYTES, PARAMETER_BYTES};
use crate::error::{Error, Kind, Result};

const PATH: &str = "/dev/ublk-control";

/// Where the kernel lists its devices, as `ublkcN`.
const DEVICES: &str = "/sys/class/ublk-char";

/// How long the last users of a device that is removed may take to close it; those who do not keep its number.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const CLOSE_LOOK: Duration = Duration::from_millis(2);

/// A number that asks for any that is free.
pub const ANY: u32 = u32::MAX;

/// Commands to the driver. Each is waited for.
pub struct Control {
    file: File,
    ring: Mutex<IoUring<squeue::Entry128, cqueue::Entry>>,
}

impl Control {
    /// Errors: `NotFound` without the driver, `Denied` for other users than root.
    pub fn open() -> Result<Control> {
        let file = OpenOptions::new().read(true).write(true).open(PATH).map_err(|e| {
            let what = match e.kind() {
                io::ErrorKind::NotFound => "the kernel's ublk driver is not loaded (modprobe ublk_drv; Linux 6.5)",
                _ => "opening the ublk driver",
            };
            Error::io(what, e).in_file(Path::new(PATH))
        })?;
        let ring = IoUring::<squeue::Entry128, cqueue::Entry>::builder().dontfork().build(1);
        let ring = ring.map_err(|e| Error::io("making an io_uring for the ublk driver", e))?;
        Ok(Control { file, ring: Mutex::new(ring) })
    }

    /// What the driver can do: flags of [`super::abi::feature`].
    pub fn features(&self) -> Result<u64> {
        let mut bytes = [0; FEATURE_BYTES];
        self.call(control::GET_FEATURES, 0, 0, &mut bytes)
            .map_err(|e| Error::io("asking the ublk driver for its features (Linux 6.5 or newer is needed)", e))?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Adds a device; what it has become, since the kernel may give less than asked for.
    ///
    /// Errors: `Exists` if the number is taken.
    pub fn add(&self, info: &Info) -> Result<Info> {
        let mut bytes = info.encode();
        self.call(control::ADD, info.number, 0, &mut bytes).map_err(|e| {
            let which =
                if info.number == ANY { "a ublk device".into() } else { format!("ublk device {}", info.number) };
            Error::io(format!("adding {which}"), e)
        })?;
        Ok(Info::decode(&bytes))
    }

    /// What is known of a device.
    ///
    /// Errors: `NotFound` if there is none of that number.
    pub fn info(&self, number: u32) -> Result<Info> {
        let mut bytes = [0; INFO_BYTES];
        self.command("asking for", control::GET_INFO, number, 0, &mut bytes)?;
        Ok(Info::decode(&bytes))
    }

    /// Says what the disk will be like.
    pub fn set_parameters(&self, number: u32, parameters: &Parameters) -> Result<()> {
        self.command("describing", control::SET_PARAMETERS, number, 0, &mut parameters.encode())
    }

    /// What the disk is like; None if that was never said.
    pub fn parameters(&self, number: u32) -> Result<Option<Parameters>> {
        let mut bytes: [u8; PARAMETER_BYTES] = Parameters::question();
        self.command("asking for", control::GET_PARAMETERS, number, 0, &mut bytes)?;
        Ok(Parameters::decode(&bytes))
    }

    /// Makes the disk appear. All queues must be served already.
    pub fn start(&self, number: u32) -> Result<()> {
        self.command("starting", control::START, number, std::process::id().into(), &mut [])
    }

    /// Takes the disk away; its users get errors.
    pub fn stop(&self, number: u32) -> Result<()> {
        self.command("stopping", control::STOP, number, 0, &mut [])
    }

    /// Removes the device, stopping it if need be. Its number becomes free when nobody has it open any more, for
    /// which is waited a little.
    pub fn delete(&self, number: u32) -> Result<()> {
        // Before Linux 6.9 only the other one, which waits for as long as it takes.
        self.command("removing", control::DELETE_ASYNC, number, 0, &mut []).or_else(|e| match e.kind() {
            Kind::NotFound => Err(e),
            _ => self.command("removing", control::DELETE, number, 0, &mut []),
        })?;
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while self.info(number).is_ok() && Instant::now() < deadline {
            std::thread::sleep(CLOSE_LOOK);
        }
        Ok(())
    }

    /// Prepares a device without a server for another one.
    ///
    /// Errors: `Busy` while there is one, or its end is not through yet.
    pub fn start_recovery(&self, number: u32) -> Result<()> {
        self.command("recovering", control::START_RECOVERY, number, 0, &mut [])
    }

    /// Lets I/O go on. All queues must be served again already.
    pub fn end_recovery(&self, number: u32) -> Result<()> {
        self.command("recovering", control::END_RECOVERY, number, std::process::id().into(), &mut [])
    }

    /// Tells of another size.
    pub fn update_size(&self, number: u32, sectors: u64) -> Result<()> {
        self.command("resizing", control::UPDATE_SIZE, number, sectors, &mut [])
    }

    fn command(&self, doing: &str, command: u32, number: u32, data: u64, buffer: &mut [u8]) -> Result<()> {
        self.call(command, number, data, buffer).map_err(|e| {
            if e.raw_os_error() == Some(libc::ENODEV) {
                return Error::new(Kind::NotFound, format!("there is no ublk device {number}"));
            }
            let busy = e.raw_os_error() == Some(libc::EBUSY);
            let what = format!("{doing} ublk device {number}");
            if busy {
                Error::new(Kind::Busy, what).because(e)
            } else {
                Error::io(what, e)
            }
        })
    }

    fn call(&self, command: u32, number: u32, data: u64, buffer: &mut [u8]) -> io::Result<()> {
        let address = if buffer.is_empty() { 0 } else { buffer.as_mut_ptr() as u64 };
        let body = control_command(number, (address, buffer.len() as u16), data);
        let entry = opcode::UringCmd80::new(Fd(self.file.as_raw_fd()), command).cmd(body).build();
        let mut ring = self.ring.lock();
        // SAFETY: the descriptor and the buffer outlive the command: it is waited for below, or never began.
        if unsafe { ring.submission().push(&entry) }.is_err() {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        loop {
            let waited = ring.submit_and_wait(1);
            if let Some(done) = ring.completion().next() {
                return if done.result() < 0 { Err(io::Error::from_raw_os_error(-done.result())) } else { Ok(()) };
            }
            match waited {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                // Taken by the kernel, which has the buffer until it has answered: there is no way but to go on.
                Err(_) if ring.submission().is_empty() => std::thread::yield_now(),
                // A command that the kernel never took must not be taken with the next one.
                Err(e) => {
                    *ring = IoUring::<squeue::Entry128, cqueue::Entry>::builder().dontfork().build(1)?;
                    return Err(e);
                }
            }
        }
    }
}

/// The numbers of all devices, in order; none without the driver.
///
/// Errors: those of reading sysfs.
pub fn numbers() -> Result<Vec<u32>> {
    let entries = match std::fs::read_dir(DEVICES) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("listing ublk devices", e).in_file(Path::new(DEVICES))),
    };
    let number = |name: &str| name.strip_prefix("ublkc")?.parse().ok();
    let mut numbers: Vec<u32> = entries.flatten().filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
