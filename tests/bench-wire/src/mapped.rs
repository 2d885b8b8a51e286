//! Memory that is shared with the kernel.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicU32;

use anyhow::{Result, ensure};

/// What a system call returned, or why it failed.
pub(crate) fn call(returned: i64) -> Result<i64> {
    if returned < 0 { Err(io::Error::last_os_error().into()) } else { Ok(returned) }
}

/// A mapping, unmapped when dropped.
pub(crate) struct Mapped {
    at: *mut u8,
    len: usize,
}

impl Mapped {
    /// Of a file, or anonymous with -1.
    pub(crate) fn new(fd: RawFd, len: usize, offset: i64) -> Result<Self> {
        let flags = if fd < 0 { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS } else { libc::MAP_SHARED };
        // SAFETY: a new mapping, wherever the kernel likes.
        let at = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), len, protection, flags | libc::MAP_POPULATE, fd, offset)
        };
        ensure!(at != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        Ok(Self { at: at.cast(), len })
    }

    pub(crate) fn address(&self) -> *mut u8 {
        self.at
    }

    /// A number that the kernel reads and writes, too.
    pub(crate) fn atomic(&self, at: usize) -> &AtomicU32 {
        assert!(at + size_of::<u32>() <= self.len && at.is_multiple_of(align_of::<u32>()));
        // SAFETY: within the mapping and aligned; only atomic operations touch it on this side.
        unsafe { AtomicU32::from_ptr(self.at.add(at).cast()) }
    }

    /// Reads a value of a plain type.
    pub(crate) fn get<T: Copy>(&self, at: usize) -> T {
        assert!(at + size_of::<T>() <= self.len);
        // SAFETY: within the mapping; the types of the kernel's interfaces are whole whatever their octets.
        unsafe { self.at.add(at).cast::<T>().read_unaligned() }
    }

    /// Writes a value of a plain type.
    pub(crate) fn set<T: Copy>(&self, at: usize, value: T) {
        assert!(at + size_of::<T>() <= self.len);
        // SAFETY: within the mapping.
        unsafe { self.at.add(at).cast::<T>().write_unaligned(value) }
    }

    /// Copies octets into it.
    pub(crate) fn copy_in(&self, at: usize, octets: &[u8]) {
        assert!(at + octets.len() <= self.len);
        // SAFETY: within the mapping, which no slice of Rust's lies in.
        unsafe { self.at.add(at).copy_from_nonoverlapping(octets.as_ptr(), octets.len()) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: a mapping of our own that nothing refers to any more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}
