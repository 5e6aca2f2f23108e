//! HTTP/2 frames that no client library sends.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_end_their_own_connection_only() {
    let (process, _directory) = start(&[]);
    let mut honest = process.mutes().await;
    let mut stream = TcpStream::connect(process.grpc()).await.unwrap();
    let mut attack = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    attack.extend(frame(4, 0, 0, &[]));
    // The shortest request head: :method and :scheme from the static table, :path and :authority as
    // literals.
    let head = [0x83, 0x86, 0x44, 1, b'/', 0x41, 1, b'x'];
    for number in 0..20_000_u32 {
        attack.extend(frame(1, 0x5, number * 2 + 1, &head));
        attack.extend(frame(3, 0, number * 2 + 1, &8_u32.to_be_bytes()));
    }
    let written = tokio::time::timeout(Duration::from_secs(20), stream.write_all(&attack)).await;
    let mut answer = Vec::new();
    let ended =
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(
        written.is_ok_and(|written| written.is_err()) || ended.is_ok(),
        "the connection is still open"
    );
    // The last frame is a GOAWAY that gives the reason; the frames themselves were valid HTTP/2.
    assert!(answer.ends_with(b"too_many_resets"), "{answer:?}");
    mute(&mut honest, "room", vec!["u".into()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_http_2_frames_end_their_own_connection_only() {
    let (process, _directory) = start(&[]);
    let mut honest = process.mutes().await;
    // A request head in endless CONTINUATION frames. It starts as GET / from the static table.
    let endless = [
        frame(1, 0, 1, &[0x82, 0x84, 0x86]),
        frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(2_000)).repeat(200),
    ]
    .concat();
    let cases = [
        ("a frame over the maximum size", frame(0, 0, 1, &vec![0; 1 << 20])),
        ("data on a stream without a call", frame(0, 0, 1, b"x")),
        ("headers on stream 0", frame(1, 0x5, 0, &[0x82])),
        ("headers on an even stream", frame(1, 0x5, 2, &[0x82])),
        ("headers that are not HPACK", frame(1, 0x5, 1, &[0xff; 40])),
        ("a continuation without headers", frame(9, 0x4, 1, &[0x82])),
        ("headers without an end", endless),
        ("a window update of 0", frame(8, 0, 0, &[0; 4])),
        ("a window over the maximum", frame(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes()).repeat(2)),
        ("a truncated setting", frame(4, 0, 0, &[0; 5])),
        ("an invalid setting", frame(4, 0, 0, &[0, 2, 0, 0, 0, 9])),
        ("a push promise from a client", frame(5, 0x4, 1, &[0, 0, 0, 2, 0x82])),
        ("a ping of seven bytes", frame(6, 0, 0, &[0; 7])),
    ];
    for (case, bytes) in cases {
        let mut stream = TcpStream::connect(process.grpc()).await.unwrap();
        let begun =
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[]), &bytes].concat();
        let _ = stream.write_all(&begun).await;
        let mut answer = Vec::new();
        let ended =
            tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{case}: the connection is still open");
        mute(&mut honest, "room", vec!["u".into()]).await.unwrap();
    }
    // Unknown frames are ignored, as RFC 9113 requires. Many pings are allowed, and each is
    // answered.
    let mut stream = TcpStream::connect(process.grpc()).await.unwrap();
    let odd = [frame(0xbe, 0xff, 77, b"unknown"), frame(6, 0, 0, &[7; 8]).repeat(100)].concat();
    let begun =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[]), &odd].concat();
    stream.write_all(&begun).await.unwrap();
    let mut answer = Vec::new();
    let pong = frame(6, 1, 0, &[7; 8]);
    while !answer.windows(pong.len()).any(|window| window == pong) {
        let mut piece = [0; 4_096];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut piece))
            .await
            .unwrap()
            .unwrap();
        assert_ne!(read, 0, "closed without a cause: {answer:?}");
        answer.extend_from_slice(&piece[..read]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_frames_do_not_end_a_running_call() {
    let (mut process, _directory) = start(&[]);
    let mut stream = TcpStream::connect(process.grpc()).await.unwrap();
    let mut head = vec![0x83, 0x86];
    for (name, value) in [
        (":authority", "x"),
        (":path", "/mute.v1.MuteService/CheckSend"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        SERVICE,
    ] {
        // Literals without indexing.
        head.extend(
            [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()]
                .concat(),
        );
    }
    let check = pb::CheckSendRequest {
        app: "Open".into(),
        room: "room".into(),
        user: "u".into(),
        min_revision: 0,
    }
    .encode_to_vec();
    let message = [&[0, 0, 0, 0, check.len() as u8], &check[..]].concat();
    let begun =
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[]), &frame(1, 0x4, 1, &head)]
            .concat();
    stream.write_all(&begun).await.unwrap();
    let mut calls = 0;
    let mut goaways = Vec::new();
    let mut has_ended = false;
    while let Some((kind, flags, id, payload)) = read_frame(&mut stream).await {
        match (kind, id) {
            // The server's settings: it has the call by now.
            (4, _) if flags == 0 => process.signal("-TERM"),
            // The ping between its two GOAWAY frames. Its answer is sent together with a call that
            // was started before the last GOAWAY, and with that call's window update.
            (6, _) if flags == 0 => {
                let late = [
                    frame(6, 1, 0, &payload),
                    frame(1, 0x4, 3, &head),
                    frame(8, 0, 3, &5_u32.to_be_bytes()),
                ]
                .concat();
                stream.write_all(&late).await.unwrap();
            }
            (7, _) => {
                goaways.push((payload[..4].to_vec(), payload[4..8].to_vec()));
                if goaways.len() == 2 {
                    stream.write_all(&frame(0, 1, 1, &message)).await.unwrap();
                }
            }
            (1, 1) => (calls, has_ended) = (calls + 1, flags & 1 == 1),
            _ => assert_ne!(id, 3, "a stream that was opened too late is answered"),
        }
    }
    let last = |id: u32| id.to_be_bytes().to_vec();
    let no_error = vec![0; 4];
    assert_eq!(goaways[..2], [(last(u32::MAX >> 1), no_error.clone()), (last(1), no_error)]);
    assert!(calls == 2 && has_ended, "the call was not completed: {goaways:?}");
    assert_eq!(process.exit_code(Duration::from_secs(10)), Some(0));
}

/// The next frame: kind, flags, stream, payload. `None` at the end of the connection.
async fn read_frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let read = async {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("no frame for 20 s")
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
