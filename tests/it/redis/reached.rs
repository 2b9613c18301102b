//! Ways to Redis: a sentinel that knows the master, and TLS.

use bellwire::topic::redis::RedisConfig;

use super::{
    connect_with, message, publish, publish_again,
    server::{Redis, Sentinel},
    *,
};

/// The master is killed, and its replica promoted by a sentinel. The store finds the new master.
#[tokio::test]
async fn a_sentinel_leads_to_the_master() {
    let (mut master, port) = Redis::with_port(&[]);
    let replica = Redis::with_port(&["--replicaof", &format!("127.0.0.1 {port}")]).0;
    let is_up = |info: &str| info.contains("master_link_status:up");
    replica.until(&["INFO", "replication"], is_up).await;
    let folder = tempfile::tempdir().unwrap();
    let sentinel = Sentinel::start(folder.path(), port);
    sentinel.knows_a_replica().await;

    // The first one does not answer.
    let sentinels = ["unix:///nowhere/sentinel".to_owned(), sentinel.url()];
    let config = RedisConfig::new().sentinels(sentinels.clone(), "shop");
    let store = connect_with("redis://replaced", config).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    let one = publish(&store, "a", "1").await;
    subscriber.gets(&[message(1, "1")]).await;
    master.kill();
    let two = publish_again(&store, "a", "2").await;
    assert!(two.epoch != one.epoch && two.sequence == 1, "{two:?}");
    subscriber.gets(&[Step::Reset(at(two, 1)), message(1, "2")]).await;

    let unknown = RedisConfig::new().sentinels(sentinels, "other");
    let refused = RedisTopics::connect_with("redis://replaced", unknown);
    let refused = bounded("connecting", refused).await;
    let Err(ConnectError::Unreachable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("no sentinel knows other"), "{why}");
}

/// Redis and the store know each other by certificates.
#[cfg(feature = "tls")]
#[tokio::test]
async fn the_connection_may_have_tls() {
    let folder = tempfile::tempdir().unwrap();
    let [server, client] = ["server", "client"].map(|name| {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let path = |end: &str| folder.path().join(format!("{name}.{end}"));
        std::fs::write(path("crt"), &certificate).unwrap();
        std::fs::write(path("key"), &key).unwrap();
        (certificate, key, path("crt").display().to_string(), path("key").display().to_string())
    });
    let (_redis, port) = Redis::with_tls([&server.2, &server.3, &client.2]);
    let url = format!("rediss://127.0.0.1:{port}");
    let config = RedisConfig::new().roots(server.0).identity(client.0.clone(), client.1);
    let store = connect_with(&url, config).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    publish(&store, "a", "1").await;
    subscriber.gets(&[message(1, "1")]).await;

    // A server that has no certificate of these roots, and one without TLS.
    for (url, roots) in
        [(url.clone(), client.0), (format!("redis://127.0.0.1:{port}"), String::new())]
    {
        let config = RedisConfig::new().roots(roots);
        let refused = bounded("connecting", RedisTopics::connect_with(&url, config)).await;
        assert!(matches!(refused, Err(ConnectError::Unreachable(_))), "{refused:?}");
    }
}
