//! A cluster whose slots move and whose servers hang, under load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::{caller_at, load::Load, store_at};
use crate::{
    conformance::slot_fixture::{Caller, secs},
    harness::{cluster::ClusterSet, redis::brisk},
};

const TENANTS: usize = 24;

async fn started() -> Arc<ClusterSet> {
    Arc::new(tokio::task::spawn_blocking(ClusterSet::start).await.expect("started"))
}

/// Tenants that share one store, as those of a replica do.
fn tenants(cluster: &ClusterSet) -> Vec<Caller> {
    let store = store_at(&cluster.url(), brisk());
    (0..TENANTS).map(|_| Caller::of(store.clone())).collect()
}

fn slot_of(cluster: &ClusterSet, tenant: &Caller) -> u16 {
    cluster.ask(0, &["CLUSTER", "KEYSLOT", &format!("vg:{{{}}}:calls", tenant.tenant)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_under_load_leave_every_lease_where_its_tenant_is() {
    let cluster = started().await;
    let tenants = tenants(&cluster);
    // Held throughout, so that there is something to move.
    let mut kept = Vec::new();
    for tenant in &tenants {
        let agent = tenant.agent();
        for name in ["kept-1", "kept-2"] {
            kept.push((tenant.clone(), tenant.grant(&tenant.ask(agent, name)).await));
        }
    }
    // Counted beside the kept ones: tenants of their own in the same slots would be others.
    let store = store_at(&cluster.url(), brisk());
    let busy: Vec<_> = tenants.iter().map(|tenant| Caller { store: store.clone(), ..tenant.clone() }).collect();
    let load = Load::start(&busy, 2);
    load.grants(TENANTS * 4, secs(20)).await;
    load.look();
    let stop = Arc::new(AtomicBool::new(false));
    let (servers, stopped, slots) =
        (cluster.clone(), stop.clone(), tenants.iter().map(|tenant| slot_of(&cluster, tenant)).collect::<Vec<_>>());
    let moving = tokio::task::spawn_blocking(move || {
        let (mut moves, mut keys) = (0, 0);
        for slot in slots.iter().cycle() {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            keys += servers.move_slot(*slot, (servers.owner(*slot) + 1) % 3);
            moves += 1;
        }
        (moves, keys)
    });
    tokio::time::sleep(secs(5)).await;
    stop.store(true, Ordering::Relaxed);
    let (moves, keys) = moving.await.expect("moved");
    let (grants, refusals) = load.look();
    println!("{moves} slots with {keys} keys moved: granted {grants}, refused {refusals}");
    assert!(moves >= 20, "{moves}");
    assert!(grants.count() > 200, "{grants}");
    // A refusal is honest, and rare.
    assert!(refusals.count() * 50 < grants.count(), "granted {grants}, refused {refusals}");
    for (tenant, lease) in &kept {
        assert_eq!(tenant.leases(std::slice::from_ref(&lease.call)).await, [Some(lease.clone())]);
        assert!(tenant.release(lease).await.released);
    }
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_the_cluster_that_hangs_is_missed_by_its_own_tenants_alone() {
    let cluster = started().await;
    let all = tenants(&cluster);
    let hung = cluster.owner(slot_of(&cluster, &all[0]));
    let (gone, healthy): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|tenant| cluster.owner(slot_of(&cluster, tenant)) == hung);
    assert!(!gone.is_empty() && !healthy.is_empty());
    let (lost, well) = (Load::start(&gone, 2), Load::start(&healthy, 2));
    well.grants(200, secs(20)).await;
    lost.grants(50, secs(20)).await;
    drop((lost.look(), well.look()));
    cluster.servers()[hung].signal("STOP");
    tokio::time::sleep(secs(4)).await;
    let ((grants, refusals), (_, missed)) = (well.look(), lost.look());
    println!(
        "one of three hangs: others were granted {grants}, refused {}; its own refused {missed}",
        refusals.count()
    );
    assert!(grants.count() > 200 && missed.count() > 0, "{grants} {missed}");
    // Were they held up by it, they would be refused as often as its own; a busy machine refuses a few.
    assert!(refusals.count() * 50 < grants.count(), "granted {grants}, refused {refusals}");
    healthy[0].store.ping().await.expect("the cluster serves");
    cluster.servers()[hung].signal("CONT");
    let found = lost.grants(gone.len(), secs(10)).await;
    println!("its own tenants are admitted again after {found:?}");
    lost.stop().await;
    well.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_found_by_any_of_its_servers() {
    let cluster = started().await;
    let seed = format!("redis+cluster://127.0.0.1:1,127.0.0.1:{}", cluster.servers()[2].port());
    let tenants: Vec<_> = (0..TENANTS).map(|_| caller_at(&seed, brisk())).collect();
    let start = Instant::now();
    for tenant in &tenants {
        let lease = tenant.grant(&tenant.ask(tenant.agent(), "call")).await;
        assert!(tenant.release(&lease).await.released);
    }
    println!("{TENANTS} stores found the cluster in {:?}", start.elapsed());
    let held: Vec<i64> = (0..3).map(|place| cluster.ask(place, &["DBSIZE"])).collect();
    assert!(held.iter().all(|keys| *keys > 0), "each server has tenants: {held:?}");
}
