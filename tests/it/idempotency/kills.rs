//! Calls that kill -9 cuts off, and their repeats.

use super::*;

/// Creates rooms, one a call, until the connection breaks. Returns all answers, the last of which
/// is `None`.
async fn create(
    mut directory: DirectoryServiceClient<Channel>,
    mut answers: Vec<Option<pb::UpsertRoomResponse>>,
    writer: usize,
) -> Vec<Option<pb::UpsertRoomResponse>> {
    loop {
        let answer = directory
            .upsert_room(creation(writer, answers.len()))
            .await
            .ok()
            .map(tonic::Response::into_inner);
        let broken = answer.is_none();
        answers.push(answer);
        if broken {
            return answers;
        }
    }
}

/// Without a room id, so that each call that takes effect creates a room.
fn creation(writer: usize, call: usize) -> Request<pb::UpsertRoomRequest> {
    let message = pb::UpsertRoomRequest {
        app: "Open".into(),
        name: Some(format!("w{writer}")),
        request_id: format!("w{writer} c{call}"),
        ..Default::default()
    };
    with(message, &[SERVICE])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_cut_off_by_a_kill_takes_effect_once_with_repeats() {
    let data_dir = tempfile::tempdir().unwrap();
    let mut writers = vec![Vec::new(); 4];
    let mut unanswered = 0;
    for kill in 0..10_u64 {
        let process = Process::start(data_dir.path());
        let mut running = Vec::new();
        for (writer, answers) in writers.drain(..).enumerate() {
            running.push(tokio::spawn(create(process.directory().await, answers, writer)));
        }
        tokio::time::sleep(Duration::from_millis(20 + 17 * kill % 60)).await;
        // Dropped: kill -9.
        drop(process);
        for writer in running {
            writers.push(writer.await.unwrap());
        }
        let process = Process::start(data_dir.path());
        let mut directory = process.directory().await;
        for (writer, answers) in writers.iter_mut().enumerate() {
            let from = answers.len().saturating_sub(5);
            for (call, answer) in answers.iter_mut().enumerate().skip(from) {
                let again =
                    directory.upsert_room(creation(writer, call)).await.unwrap().into_inner();
                unanswered += usize::from(answer.is_none());
                assert_eq!(
                    *answer.get_or_insert_with(|| again.clone()),
                    again,
                    "writer {writer}, call {call}"
                );
            }
        }
    }
    let process = Process::start(data_dir.path());
    let mut directory = process.directory().await;
    let calls: usize = writers.iter().map(Vec::len).sum();
    let rooms: BTreeSet<_> =
        writers.iter().flatten().map(|answer| answer.clone().unwrap().room.unwrap().room).collect();
    println!("{calls} calls, {unanswered} of them without an answer at first");
    let list = with(pb::ListRoomsRequest { app: "Open".into(), ..Default::default() }, &[SERVICE]);
    let total = directory.list_rooms(list).await.unwrap().into_inner().total_size;
    assert_eq!((rooms.len(), total), (calls, calls as i64));
}
