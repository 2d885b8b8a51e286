//! A TCP stream of IKE messages, and how it is cut.

use keyferry_wire::{Deframer, Frame, MAX_FRAMED, StreamError, frame};

/// Where a stream is cut, in its first octet, then the stream.
pub fn target(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let whole = read(stream.chunks(stream.len().max(1)));
    assert_eq!(whole, read(stream.chunks(usize::from(*cut).max(1))), "frames are the same however a stream is cut");
    for message in whole.0 {
        let Frame::Ike(message) = message else { continue };
        assert!(message.len() <= MAX_FRAMED);
        let octets = frame(&message);
        let again = octets.iter().flat_map(|octets| octets.chunks(octets.len()));
        let mut deframer = Deframer::originator();
        again.for_each(|octets| deframer.push(octets));
        assert_eq!(deframer.take(), Ok(Some(Frame::Ike(message))), "a frame comes back");
    }
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<StreamError>) {
    let (mut deframer, mut frames) = (Deframer::responder(), Vec::new());
    for piece in pieces {
        deframer.push(piece);
        loop {
            match deframer.take() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}
