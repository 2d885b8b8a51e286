//! Hostile and slow peers, on real sockets.

use tokio::sync::mpsc::Receiver;

use super::*;

async fn listening() -> (SocketAddr, Receiver<Event>) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (events, receiver) = mpsc::channel(8);
    let at = listener.local();
    listener.run(Shared::new(4, events));
    (at, receiver)
}

async fn opened(events: &mut Receiver<Event>) -> Connection {
    match events.recv().await.unwrap() {
        Event::Opened(connection) => connection,
        other @ (Event::Came(..) | Event::Closed(_)) => panic!("{other:?}"),
    }
}

async fn came(events: &mut Receiver<Event>) -> Option<Frame> {
    match events.recv().await.unwrap() {
        Event::Came(_, frame) => Some(frame),
        Event::Closed(_) => None,
        Event::Opened(_) => panic!("another one"),
    }
}

#[tokio::test]
async fn messages_go_both_ways_and_the_last_one_arrives() {
    let (at, mut events) = listening().await;
    let (ours, mut client) = mpsc::channel(8);
    let id = ConnectionId(77);
    dial(id, "127.0.0.1".parse().unwrap(), at, ours);
    let (member, gateway) = (opened(&mut client).await, opened(&mut events).await);
    assert_eq!((member.local, member.peer, member.id), (gateway.peer, gateway.local, id));
    assert!(member.send(b"request") && gateway.send(&[5; 60_000]));
    assert_eq!(came(&mut events).await, Some(Frame::Ike(b"request".to_vec())));
    assert_eq!(came(&mut client).await, Some(Frame::Ike(vec![5; 60_000])));
    assert!(!member.send(&[0; 65_530]), "too long for a frame");
    assert!(member.send(b"farewell"));
    drop(member);
    assert_eq!(came(&mut events).await, Some(Frame::Ike(b"farewell".to_vec())));
    assert_eq!(came(&mut events).await, None);
    assert_eq!(came(&mut client).await, None);
    drop(gateway);
}

#[tokio::test]
async fn nobody_there_is_told() {
    let (events, mut receiver) = mpsc::channel(8);
    let free = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap().local();
    dial(ConnectionId(1), "127.0.0.1".parse().unwrap(), free, events);
    assert!(matches!(receiver.recv().await, Some(Event::Closed(ConnectionId(1)))));
}

#[tokio::test]
async fn another_prefix_or_a_broken_length_ends_a_connection() {
    let (at, mut events) = listening().await;
    for octets in [&b"GET / HTTP/1.1\r\n"[..], b"IKETCP\0\x01\0\0\0\0", b"\0\x1c\0\0\0\0"] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let _connection = opened(&mut events).await;
        stream.write_all(octets).await.unwrap();
        assert_eq!(came(&mut events).await, None);
        // An end or a reset, as it comes.
        assert!(matches!(stream.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    }
}

/// Octet by octet within the time it is taken; beyond it is not.
#[tokio::test(start_paused = true)]
async fn slow_senders_are_cut_off() {
    let (client, server) = tokio::io::duplex(64);
    let (events, mut receiver) = mpsc::channel(8);
    let reading = tokio::spawn(async move { read(server, ConnectionId(1), Deframer::responder(), &events).await });
    let (_reader, mut writer) = tokio::io::split(client);
    for octet in STREAM_PREFIX.into_iter().chain(frame(b"a").unwrap()) {
        tokio::time::sleep(Duration::from_millis(700)).await;
        writer.write_all(&[octet]).await.unwrap();
    }
    assert_eq!(came(&mut receiver).await, Some(Frame::Ike(b"a".to_vec())));
    // Between frames there is time.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    writer.write_all(&frame(b"b").unwrap()).await.unwrap();
    assert_eq!(came(&mut receiver).await, Some(Frame::Ike(b"b".to_vec())));
    let begun = Instant::now();
    writer.write_all(&[0]).await.unwrap();
    assert_eq!(reading.await.unwrap(), "timed out");
    assert_eq!(begun.elapsed().as_secs(), 10);
    // Nothing at all is no prefix either.
    let (_client, server) = tokio::io::duplex(64);
    let (events, _receiver) = mpsc::channel(8);
    read(server, ConnectionId(1), Deframer::responder(), &events).await;
    assert_eq!(begun.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_cut_off() {
    let (_client, server) = tokio::io::duplex(64);
    let (unread, queue) = mpsc::channel(UNREAD);
    let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let connection = Connection { id: ConnectionId(1), local: address, peer: address, unread };
    let writing = tokio::spawn(async move { write(server, queue).await.map(drop) });
    let sent = (0..100).take_while(|_| connection.send(&[1; 1000])).count();
    assert_eq!(sent, UNREAD);
    assert_eq!(writing.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
}

/// No more connections are taken than there are slots.
#[tokio::test]
async fn descriptors_do_not_run_out() {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (at, (events, mut receiver)) = (listener.local(), mpsc::channel(200));
    listener.run(Shared::new(0, events));
    let mut streams = Vec::new();
    for _ in 0..70 {
        streams.push(TcpStream::connect(at).await.unwrap());
    }
    let mut open = Vec::new();
    while let Ok(Some(Event::Opened(connection))) = timeout(Duration::from_millis(500), receiver.recv()).await {
        open.push(connection);
    }
    assert_eq!(open.len(), 64);
}
