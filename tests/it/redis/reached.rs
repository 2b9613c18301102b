//! Ways to Redis: a sentinel or a cluster that knows the master, and TLS.

use bellwire::server::keys::{KeysConfig, RedisKeys};

use super::{
    server::{Redis, Sentinel},
    *,
};
use crate::key_tables::{begin, pay};

/// The master is killed, and its replica promoted by a sentinel. The store finds the new master.
#[tokio::test]
async fn a_sentinel_leads_to_the_master() {
    let (mut master, port) = Redis::with_port(&[]);
    let replica = Redis::with_port(&["--replicaof", &format!("127.0.0.1 {port}")]).0;
    replica.is_in_sync().await;
    let folder = tempfile::tempdir().unwrap();
    let sentinel = Sentinel::start(folder.path(), port);
    sentinel.knows_a_replica().await;

    // The first one does not answer.
    let sentinels = ["unix:///nowhere/sentinel".to_owned(), sentinel.url()];
    let config = patient().sentinels(sentinels.clone(), "shop");
    let store = connect_with("redis://replaced", config).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    let one = publish(&store, "a", "1").await;
    subscriber.gets(&[message(1, "1")]).await;
    master.kill();
    let two = publish_again(&store, "a", "2").await;
    assert!(two.epoch != one.epoch && two.sequence == 1, "{two:?}");
    subscriber.gets(&[Step::Reset(at(two, 1)), message(1, "2")]).await;

    let unknown = patient().sentinels(sentinels, "other");
    let refused = RedisTopics::connect_with("redis://replaced", unknown);
    let refused = bounded("connecting", refused).await;
    let Err(ConnectError::Unreachable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("no sentinel knows other"), "{why}");
}

/// Keys are in a store of the cluster's node that has their slot, wherever the store looks first. When
/// a replica takes the slot over, the store follows.
#[tokio::test]
async fn a_cluster_leads_to_the_master() {
    let nodes = [Redis::in_cluster(), Redis::in_cluster(), Redis::in_cluster()];
    let [(other, other_port, _), (master, port, bus), (replica, ..)] = &nodes;
    other.run(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    master.run(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    for (node, ..) in &nodes {
        let meet = ["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), &bus.to_string()];
        node.run(&meet);
    }
    let id = master.run(&["CLUSTER", "MYID"]);
    replica.until(&["CLUSTER", "REPLICATE", &id], |answer| answer == "+OK").await;
    replica.is_in_sync().await;
    for (node, ..) in &nodes {
        node.until(&["CLUSTER", "INFO"], |info| info.contains("cluster_state:ok")).await;
    }

    // The first one does not answer, and the second one does not have the slot.
    let urls = ["redis://127.0.0.1:1".to_owned(), format!("redis://127.0.0.1:{other_port}")];
    let config = patient().cluster(urls);
    let store = connect_with("redis://replaced", config.clone()).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    let one = publish(&store, "a", "1").await;
    subscriber.gets(&[message(1, "1")]).await;
    // All keys of a script are in the slot, also those that only the script names.
    publish_latest(&store, "b", "x", "1").await;
    publish_latest(&store, "b", "x", "2").await;
    bounded("closing", Publisher::new(store.clone()).close("b")).await.unwrap();
    let keys = bounded("the table", RedisKeys::open(&store, KeysConfig::new())).await.unwrap();
    assert_eq!(begin(&keys, &pay("a", "40")).await, "Run");

    replica.run(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    master.until(&["INFO", "replication"], |info| info.contains("role:slave")).await;
    let two = publish_again(&store, "a", "2").await;
    assert!(two.epoch != one.epoch && two.sequence == 1, "{two:?}");
    subscriber.gets(&[Step::Reset(at(two, 1)), message(1, "2")]).await;
    // The URL alone leads to a node that does not have the slot.
    let url = format!("redis://127.0.0.1:{other_port}");
    let refused = bounded("connecting", RedisTopics::connect_with(&url, patient())).await;
    let Err(ConnectError::Unreachable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("Moved"), "{why}");
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
    let config = patient().roots(server.0).identity(client.0.clone(), client.1);
    let store = connect_with(&url, config).await;
    let mut subscriber = Subscriber::new(&store, "a").await;
    publish(&store, "a", "1").await;
    subscriber.gets(&[message(1, "1")]).await;

    // A server that has no certificate of these roots, and one without TLS.
    for (url, roots) in
        [(url.clone(), client.0), (format!("redis://127.0.0.1:{port}"), String::new())]
    {
        let config = patient().roots(roots);
        let refused = bounded("connecting", RedisTopics::connect_with(&url, config)).await;
        assert!(matches!(refused, Err(ConnectError::Unreachable(_))), "{refused:?}");
    }
}
