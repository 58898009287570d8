//! Unpacks one compressed cluster. What follows the stream within the last sector is of no interest; a stream that ends
//! before the cluster is full is damage.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::header::Packing;

/// A cluster has at most 2 MiB; a frame that asks for a larger window than this was not made for one.
const ZSTD_WINDOW_LOG: u32 = 24;

/// Unpacks to exactly `size` bytes, or says why not.
pub(super) fn unpack(packing: Packing, packed: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let mut out = vec![0; size];
    let got = match packing {
        Packing::Deflate => inflate(packed, &mut out)?,
        Packing::Zstd => unzstd(packed, &mut out)?,
    };
    if got == size { Ok(out) } else { Err(format!("it unpacks to {got} of {size} bytes")) }
}

fn inflate(packed: &[u8], out: &mut [u8]) -> Result<usize, String> {
    let mut stream = Decompress::new(false);
    match stream.decompress(packed, out, FlushDecompress::Finish) {
        Ok(Status::Ok | Status::BufError | Status::StreamEnd) => Ok(stream.total_out() as usize),
        Err(error) => Err(error.to_string()),
    }
}

fn unzstd(packed: &[u8], out: &mut [u8]) -> Result<usize, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut decoder = Decoder::new().map_err(text)?;
    decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).map_err(text)?;
    let mut input = InBuffer::around(packed);
    let mut output = OutBuffer::around(out);
    loop {
        let (read, written) = (input.pos(), output.pos());
        decoder.run(&mut input, &mut output).map_err(text)?;
        let stuck = input.pos() == read && output.pos() == written;
        if output.pos() == output.capacity() || stuck {
            return Ok(output.pos());
        }
    }
}
