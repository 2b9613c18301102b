//! A topic that follows a file.

use std::{path::PathBuf, time::Duration};

use bellwire::{PublishError, Publisher};
use tokio::time::sleep;

use crate::follow::{Event, Follower};

/// How often to look at the file.
const INTERVAL: Duration = Duration::from_millis(100);

/// Publishes each line of the file, from its beginning. Returns when the server has stopped.
pub(crate) async fn follow(topic: String, file: PathBuf, publisher: Publisher) {
    let mut follower = Follower::new(&file);
    loop {
        match follower.read_new().await {
            Ok(events) => {
                for event in events {
                    if publish(&topic, event, &publisher).await.is_err() {
                        return;
                    }
                }
            }
            // It is reported once until it is over.
            Err(error) => eprintln!("topic {topic}: {error}"),
        }
        if follower.is_idle() {
            sleep(INTERVAL).await;
        }
    }
}

/// Fails when the server has stopped.
async fn publish(topic: &str, event: Event, publisher: &Publisher) -> Result<(), ()> {
    match event {
        Event::Line { number, text } => match publisher.publish(topic, text).await {
            Err(PublishError::Closed) => return Err(()),
            Err(error) => eprintln!("topic {topic}: line {number} is not published: {error}"),
            Ok(_) => {}
        },
        Event::Restarted(reason) => {
            eprintln!("topic {topic}: the file begins again ({reason:?}); all its lines follow");
        }
        Event::TooLong { number, bytes } => {
            eprintln!("topic {topic}: line {number} is not published: it has {bytes} bytes");
        }
        Event::Missed(files) => {
            eprintln!("topic {topic}: {files} files were replaced before they were read");
        }
    }
    Ok(())
}
