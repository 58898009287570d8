//! Which way to make zeros: decided here, done in [`super::file`].

use rustix::{fs::FallocateFlags, io::Errno};

/// A way that the system may have to make a range read as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// On a block device the write-zeroes command with leave to unmap, and no fallback (Linux, block/fops.c,
    /// `blkdev_fallocate`: `FALLOC_FL_PUNCH_HOLE` is `BLKDEV_ZERO_NOFALLBACK`): what it gives up reads as zeros, or it
    /// refuses. Never a mere discard, whose blocks may read as anything. On a file: a hole.
    Punch,
    /// The write-zeroes command without leave to unmap, or the kernel's own writing of zeros (the same function:
    /// `FALLOC_FL_ZERO_RANGE` is `BLKDEV_ZERO_NOUNMAP`). On a file: allocated, unwritten blocks.
    Zero,
    /// Writing zeros, which every disk can.
    Write,
}

impl Way {
    /// How fallocate(2) calls it; `None` if it is not asked.
    pub(super) fn flags(self) -> Option<FallocateFlags> {
        match self {
            Self::Punch => Some(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE),
            Self::Zero => Some(FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE),
            Self::Write => None,
        }
    }
}

/// What to do after a way failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The same again.
    Again,
    /// Another way, for this range only.
    Next,
    /// Another way, from now on: the device has not got this one.
    Never,
    /// The disk failed.
    Fail,
}

/// What an error of fallocate(2) means.
pub(super) fn after(error: Errno) -> After {
    match error {
        Errno::INTR => After::Again,
        // A range that is not aligned to blocks is not a reason to give the way up.
        Errno::INVAL => After::Next,
        // REMOTEIO is a target that refused the command although it had announced it (block/blk-core.c, `blk_errors`).
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::NODEV | Errno::REMOTEIO => After::Never,
        _ => After::Fail,
    }
}

/// The ways that have not been refused for good.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ways {
    no_punch: bool,
    no_zero: bool,
}

impl Ways {
    /// The best way that is left, `tried` being the last one that did not do for the range at hand.
    pub(super) fn best(self, may_unmap: bool, tried: Option<Way>) -> Way {
        let punch = may_unmap && !self.no_punch && tried.is_none();
        let zero = !self.no_zero && !matches!(tried, Some(Way::Zero | Way::Write));
        match (punch, zero) {
            (true, _) => Way::Punch,
            (false, true) => Way::Zero,
            (false, false) => Way::Write,
        }
    }

    /// This way is not to be tried again.
    pub(super) fn refuse(&mut self, way: Way) {
        match way {
            Way::Punch => self.no_punch = true,
            Way::Zero => self.no_zero = true,
            Way::Write => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_tried_best_first_and_end_with_writing() {
        let mut ways = Ways::default();
        assert_eq!(ways.best(true, None), Way::Punch);
        assert_eq!(ways.best(true, Some(Way::Punch)), Way::Zero);
        assert_eq!(ways.best(true, Some(Way::Zero)), Way::Write);
        assert_eq!(ways.best(false, None), Way::Zero, "where nothing may be unmapped");
        ways.refuse(Way::Zero);
        assert_eq!(ways.best(true, None), Way::Punch);
        assert_eq!(ways.best(true, Some(Way::Punch)), Way::Write);
        assert_eq!(ways.best(false, None), Way::Write);
        ways.refuse(Way::Punch);
        assert_eq!(ways.best(true, None), Way::Write);
        let mut ways = Ways::default();
        ways.refuse(Way::Punch);
        assert_eq!(ways.best(true, None), Way::Zero);
    }

    #[test]
    fn an_error_is_another_try_another_way_or_the_end() {
        let table = [
            (Errno::INTR, After::Again),
            (Errno::INVAL, After::Next),
            (Errno::OPNOTSUPP, After::Never),
            (Errno::NOSYS, After::Never),
            (Errno::PERM, After::Never),
            (Errno::NODEV, After::Never),
            (Errno::REMOTEIO, After::Never),
            (Errno::IO, After::Fail),
            (Errno::NOSPC, After::Fail),
        ];
        for (error, expected) in table {
            assert_eq!(after(error), expected, "{error}");
        }
    }
}
