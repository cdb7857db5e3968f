//! The event store, attacked.

use super::*;
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds { events: 8, bytes: 4096, parked: 2, keep: Duration::from_secs(300) };
const PATIENCE: Duration = Duration::from_secs(1);

fn streams() -> Arc<Streams> {
    Streams::new(BOUNDS, Budget::new(1 << 20), 0)
}

async fn say(writer: &Writer, text: &str) {
    writer.send(Bytes::copy_from_slice(text.as_bytes()), PATIENCE).await.unwrap();
}

async fn hear(reader: &mut Reader) -> Option<(String, String)> {
    let next = tokio::time::timeout(Duration::from_secs(5), reader.next()).await.unwrap();
    next.map(|(id, message)| (id.to_string(), String::from_utf8_lossy(&message).into_owned()))
}

fn event(id: &str, text: &str) -> Option<(String, String)> {
    Some((id.to_owned(), text.to_owned()))
}

#[tokio::test]
async fn e130_e131_a_stream_goes_on_where_its_reader_stopped_and_is_no_other() {
    let streams = streams();
    let (one, mut first) = streams.open();
    let (two, _second) = streams.open();
    say(&one, "a").await;
    say(&two, "of another stream").await;
    assert_eq!(hear(&mut first).await, event("1-1", "a"));
    say(&one, "b").await;
    assert_eq!(hear(&mut first).await, event("1-2", "b"));
    first.leave();
    say(&one, "c").await;
    let mut again = streams.resume(b"1-1").unwrap();
    assert_eq!(hear(&mut again).await, event("1-2", "b"), "taken by a connection that broke");
    assert_eq!(hear(&mut again).await, event("1-3", "c"));
    one.finish(Bytes::from_static(b"d"), PATIENCE).await.unwrap();
    assert_eq!(hear(&mut again).await, event("1-4", "d"));
    assert_eq!(hear(&mut again).await, None, "complete");
    again.leave();
    assert_eq!(hear(&mut streams.resume(b"1-3").unwrap()).await, event("1-4", "d"), "for a while");
}

#[tokio::test]
async fn a_second_resume_takes_over() {
    let streams = streams();
    let (writer, mut first) = streams.open();
    let waiting = stdx::task::spawn("a test's reader", async move { (hear(&mut first).await, first) });
    tokio::task::yield_now().await;
    let mut second = streams.resume(b"1-0").unwrap();
    let (heard, first) = waiting.await.unwrap().unwrap();
    assert_eq!(heard, None);
    first.leave();
    say(&writer, "a").await;
    assert_eq!(hear(&mut second).await, event("1-1", "a"), "the older reader's leaving changes nothing");
}

#[test]
fn e132_what_is_no_event_of_this_session_looks_like_what_is_gone() {
    let streams = streams();
    let (_writer, _reader) = streams.open();
    for bad in ["", "1", "-", "1-", "-1", "1-1", "2-0", "01-0", "1-00", "+1-0", "1-+0", "1-0 ", "1-0-0", "é-0"] {
        assert_eq!(streams.resume(bad.as_bytes()).unwrap_err(), NotKept, "{bad}");
    }
    assert_eq!(streams.resume(b"99999999999999999999-0").unwrap_err(), NotKept);
    assert_eq!(streams.resume(b"1-18446744073709551615").unwrap_err(), NotKept);
    assert!(streams.resume(b"1-0").is_ok());
}

#[tokio::test]
async fn e133_who_missed_too_much_is_told_so() {
    let streams = streams();
    let (writer, reader) = streams.open();
    reader.leave();
    for n in 0..20 {
        say(&writer, &n.to_string()).await;
    }
    assert_eq!(streams.resume(b"1-0").unwrap_err(), NotKept);
    assert_eq!(streams.resume(b"1-11").unwrap_err(), NotKept);
    assert_eq!(hear(&mut streams.resume(b"1-12").unwrap()).await, event("1-13", "12"));
}

#[tokio::test]
async fn e134_the_newest_event_is_kept_whatever_its_size() {
    let streams = streams();
    let (writer, reader) = streams.open();
    reader.leave();
    say(&writer, "small").await;
    writer.finish(vec![b'x'; 1 << 16].into(), PATIENCE).await.unwrap();
    assert_eq!(streams.resume(b"1-0").unwrap_err(), NotKept);
    assert_eq!(streams.resume(b"1-1").unwrap().next().await.unwrap().1.len(), 1 << 16);
}

#[tokio::test]
async fn sessions_of_one_principal_share_what_they_may_keep() {
    let budget = Budget::new(1000);
    let all: Vec<_> = (0..4).map(|_| Streams::new(BOUNDS, budget.clone(), 0)).collect();
    let mut writers = Vec::new();
    for streams in &all {
        let (writer, reader) = streams.open();
        reader.leave();
        let _ = writer.send(vec![b'x'; 400].into(), PATIENCE).await;
        writers.push(writer);
    }
    assert!(budget.used.load(Ordering::Relaxed) <= 1000);
    assert!(all[0].resume(b"1-0").is_ok());
    assert_eq!(all[3].resume(b"1-0").unwrap_err(), NotKept);
    for streams in &all {
        streams.end();
    }
    assert_eq!(budget.used.load(Ordering::Relaxed), 0, "an ended session gives everything back");
    assert_eq!(writers[0].send(Bytes::new(), PATIENCE).await, Err(StreamGone));
}

#[tokio::test]
async fn of_too_many_parked_streams_the_one_that_waits_longest_goes() {
    let streams = streams();
    let mut writers = Vec::new();
    for _ in 0..3 {
        let (writer, reader) = streams.open();
        reader.leave();
        writers.push(writer);
    }
    assert_eq!(writers[0].send(Bytes::new(), PATIENCE).await, Err(StreamGone));
    assert!(streams.resume(b"1-0").is_err() && streams.resume(b"2-0").is_ok() && streams.resume(b"3-0").is_ok());
}

#[tokio::test]
async fn e75_what_no_connection_took_moves_to_the_next_standing_stream() {
    let streams = streams();
    let mut first = streams.open_standing();
    for text in ["a", "b"] {
        assert_eq!(streams.send(Bytes::from_static(text.as_bytes())), Sent::Taken);
    }
    assert_eq!(hear(&mut first).await, event("1-1", "a"));
    let mut second = streams.open_standing();
    assert_eq!(hear(&mut first).await, None);
    assert_eq!(hear(&mut second).await, event("2-1", "b"), "and no message twice");
    second.leave();
    assert_eq!(streams.send(Bytes::new()), Sent::Nobody);
}

#[tokio::test]
async fn a_standing_stream_that_nobody_reads_holds_bounded_memory() {
    let streams = streams();
    let mut reader = streams.open_standing();
    for _ in 0..3 {
        for n in 0..100 {
            let sent = streams.send(vec![b'x'; 1 << 20].into());
            assert_eq!(sent, if n < 4 { Sent::Taken } else { Sent::Behind });
        }
        for _ in 0..4 {
            assert_eq!(reader.next().await.unwrap().1.len(), 1 << 20);
        }
    }
    assert_eq!(streams.send(vec![b'x'; 2 * STANDING_BYTES].into()), Sent::Taken, "one large message gets through");
}

#[tokio::test]
async fn a_writer_waits_for_a_slow_reader_and_no_longer_than_it_may() {
    let streams = streams();
    let (writer, mut reader) = streams.open();
    for n in 0..LAG {
        say(&writer, &n.to_string()).await;
    }
    let (waiting, own) = (writer.clone(), tokio::time::Instant::now());
    let sent = stdx::task::spawn("a test's writer", async move { say(&waiting, "one too many").await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!sent.is_finished());
    assert_eq!(hear(&mut reader).await, event("1-1", "0"));
    sent.await.unwrap().unwrap();
    say(&writer, "and another").await;
    assert!(own.elapsed() >= PATIENCE, "it was waited for");
    assert_eq!(hear(&mut reader).await, None, "the reader counts as gone");
}

#[tokio::test]
async fn a_channel_keeps_nothing_and_ends_with_its_reader() {
    let (streams, writer, mut reader) = Streams::channel();
    say(&writer, "a").await;
    assert_eq!(hear(&mut reader).await, event("1-1", "a"));
    assert_eq!(streams.table().bytes, 0);
    reader.leave();
    assert_eq!(writer.send(Bytes::new(), PATIENCE).await, Err(StreamGone));
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Standing,
    Say(usize, u8),
    Finish(usize),
    Take(usize),
    Leave(usize),
    Resume(usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Open),
        Just(Step::Standing),
        (0..6_usize, any::<u8>()).prop_map(|(at, size)| Step::Say(at, size)),
        (0..6_usize).prop_map(Step::Finish),
        (0..6_usize).prop_map(Step::Take),
        (0..6_usize).prop_map(Step::Leave),
        (0..6_usize, 0..20_u64).prop_map(|(at, back)| Step::Resume(at, back)),
    ]
}

proptest! {
    /// Whatever happens: a reader hears each event of its stream once and in order, from where it began, and the
    /// books are right.
    #[test]
    fn a_reader_never_meets_a_gap(steps in proptest::collection::vec(step(), 1..80)) {
        let (streams, budget) = (Streams::new(BOUNDS, Budget::new(3000), 0), 3000);
        let mut writers: Vec<Option<Writer>> = Vec::new();
        let mut said: std::collections::HashMap<u64, Vec<Vec<u8>>> = std::collections::HashMap::new();
        let mut readers: Vec<Reader> = Vec::new();
        for step in steps {
            match step {
                Step::Open => {
                    let (writer, reader) = streams.open();
                    writers.push(Some(writer));
                    readers.push(reader);
                }
                Step::Standing => readers.push(streams.open_standing()),
                Step::Say(at, size) => if let Some(Some(writer)) = writers.get(at) {
                    let message = vec![size; usize::from(size) * 4];
                    if writer.streams.append(writer.stream, message.clone().into(), false).is_ok() {
                        said.entry(writer.stream).or_default().push(message);
                    }
                },
                Step::Finish(at) => if let Some(writer) = writers.get_mut(at).and_then(Option::take) {
                    writer.close();
                },
                Step::Take(at) => if let Some(reader) = readers.get_mut(at)
                    && let Look::Event(message) = reader.look() {
                    reader.position += 1;
                    let position = usize::try_from(reader.position).unwrap();
                    prop_assert_eq!(&said[&reader.stream][position - 1], &message.to_vec());
                },
                Step::Leave(at) => if at < readers.len() {
                    readers.remove(at).leave();
                },
                Step::Resume(at, position) => {
                    let id = EventId { stream: at as u64 + 1, position };
                    if let Ok(reader) = streams.resume(id.to_string().as_bytes()) {
                        prop_assert_eq!(reader.position(), id);
                        readers.push(reader);
                    }
                }
            }
            let table = streams.table();
            let kept = table.tracks.iter().flat_map(|track| &track.kept);
            prop_assert_eq!(table.bytes, kept.clone().map(|e| e.message.len() + OVERHEAD).sum::<usize>());
            prop_assert_eq!(table.events, kept.count());
            prop_assert_eq!(table.bytes, streams.budget.used.load(Ordering::Relaxed));
            let unread: usize = table.tracks.iter().map(Track::unread_bytes).sum();
            prop_assert!(table.bytes <= budget + unread + table.events * OVERHEAD);
            prop_assert!(table.tracks.iter().filter(|t| t.reader.is_none()).count() <= BOUNDS.parked + 1);
        }
    }
}
