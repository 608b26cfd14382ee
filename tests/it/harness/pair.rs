//! Two replicas on stores of their own.

use secrecy::ExposeSecret as _;

use super::{postgres, redis::PrivateRedis, server::TestServer, world::World};

/// The same tenant through each.
pub(crate) struct Pair {
    pub(crate) redis: PrivateRedis,
    pub(crate) database: String,
    pub(crate) servers: [TestServer; 2],
    pub(crate) worlds: [World; 2],
}

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::start_on(PrivateRedis::start()).await
    }

    pub(crate) async fn start_on(redis: PrivateRedis) -> Self {
        let database = postgres::fresh_database();
        let first = TestServer::production(&database, redis.url().expose_secret());
        let key = first.admin_key.clone();
        let second = TestServer::production_with_key(&database, redis.url().expose_secret(), key);
        let world = World::on(&first.addr, &first.admin_key).await;
        let worlds = [world.clone(), world.through(&second.addr)];
        Self { redis, database, servers: [first, second], worlds }
    }
}
