// Package routing keeps the active label on the pod of the active Vault node,
// so that the Service always points at it.
//
// # Why two active nodes cannot be behind the Service
//
// What keeps the data safe is Vault's own lock in the storage, which has one
// holder. This package decides where clients are sent, and argues so:
//
//  1. A node is promoted only when it says that it is active and no other node
//     that stays says so ([decide]). Two claims contradict the lock, so neither
//     is believed, unless most nodes follow one of them.
//  2. Before that, all other pods that are not being deleted lose the label, however
//     many have it, and also when the pod itself has it already. The promotion follows
//     only when the API server has accepted that, or has no such pod any more. An error
//     in between leaves no pod in the Service, and never two.
//  3. Right before the promotion the node is probed once more and the labelled
//     pods are read from the API server, because what is known may be a moment
//     old and another replica may have acted on it.
//  4. A patch names the UID of its pod, so it cannot hit another one.
//
// One gap is left, since no write can span two pods: two replicas that promote
// two different nodes in the same moment. The lock has changed hands between the
// two probes then, so one of the two nodes is standby already and forwards
// requests (https://developer.hashicorp.com/vault/docs/concepts/ha). The
// gap is no wider than the time limit of a reconciliation; the events of the two
// patches make both replicas look again, and the standby loses the label.
//
// # When silence takes a node out
//
// Taking a silent node out of the Service makes no other node active: only the lock
// does. What it buys is that clients are refused at once, and try again, instead of
// waiting on the silent node until a timeout of their own, which is a minute in Vault's
// client, while a successor may be active when the lock has expired after 13 seconds.
// Measured with clients that wait for a minute, six times as many of them are stuck
// without it; with clients that wait for a second there is no difference
// (docs/benchmarks.md). What it costs, when the node was healthy, is the whole Service.
// So silence has to be corroborated before it counts:
//
//   - Another node could take over: it says that it is standby, or it said so when
//     it last answered and can be connected to, while the silent one cannot: its
//     Kubernetes node is lost, and the others wait for the storage to elect a leader.
//     It is probed again before that counts, and the silent one too, since a storage
//     that fails or recovers silences or wakes one node after the other. A sealed node
//     cannot take over.
//   - It is silence. A node that gives a wrong response, or whose certificate cannot
//     be verified, was reached; clients will not hang on it.
//   - This replica is not late itself ([probe.Engine.SilenceCounts]): in a process
//     that is short of CPU answers wait to be read while their time runs out.
//   - Not more than three active nodes and two fifths of all are silent at the same
//     time. Of three Kubernetes nodes, a lost one takes a third of them along; more is
//     likely to be this replica's own network. Where that is wrong, clients wait for
//     the successor instead of being refused. Of each other namespace two count at
//     most, so that a tenant of one namespace does not take this from all others with
//     silent pods of his own. Beside one other namespace a Vault alone in its own is
//     not kept in its Service by this.
//   - No other replica vouches for the node: the label came back after this replica
//     had taken it away, so that another one can reach the node. It is left alone
//     until it responds to this replica.
//
// A refused connection means that nothing listens, or that a firewall refuses in place
// of a healthy node. Clients are refused as well then, so that there is no hurry: it
// counts when another node could take over, even if this replica is late or many nodes
// are silent.
//
// No corroboration is needed for what Kubernetes reports: a container that does not
// run. And a successor that proves to be active takes the label from all others. The
// Kubernetes nodes of pods are not watched: Kubernetes itself takes the pods of one that
// is gone out of the ready endpoints.
//
// A node that hangs is out of the Service after 1.85 seconds at the latest, a lost
// one as well, where that is corroborated.
//
// # Two claims
//
// When two nodes say that they are active both are probed again, since one response
// is likely to be a pause old. If both repeat it, the other nodes decide: sys/leader says
// which node each of them follows, and the lock has one holder. The one that is most nodes
// together with those that follow it is active ([majority]); the other counts as standby.
// One that was paused still believes that it is active when it resumes, and may serve
// outdated data from its cache; and with integrated storage a node was seen that had lost the
// leadership on a busy machine and did not notice for ten minutes, when another one led.
//
// Without such a majority, as with two nodes, neither is served. That costs as long as
// Vault takes to notice that it has lost the lock.
//
// # What happens when a fact is missing
//
// A node that was not probed yet keeps its label, and no other is promoted until it
// was probed.
//
// While all nodes are silent the labels stay: it may be this replica that has no
// network, or the storage that is unavailable.
//
// The certificates of a Vault change, or become unusable: each node is verified
// with the CA that its pod mounts, in the newest version that was usable and those
// before, and one that cannot be verified keeps its label.
//
// The API server is unavailable, or refuses: nothing can be written, so the Service
// does not change. Nodes are probed all the same, and everything is tried again at
// least once a second. A patch whose response was lost is made again, which changes
// nothing.
//
// The cache is late: a label that it shows and that is gone costs a patch that
// changes nothing; one that it does not show yet is found by the read in 3; a
// pod that it does not show yet can have the label only from another replica,
// which is the same. The event that makes it current brings the next decision.
//
// Two replicas act at once: they decide the same from the same responses, and each
// patch of one is a no-op for the other. A node with the label that said that it is not
// active is probed again before it loses it, for the other may have probed it since. When
// one of them cannot reach a node, it takes the label away, the other one puts it back, and
// the first one leaves it: two patches in all.
//
// The operator dies: before the demotion the Service has not changed; between demotion
// and promotion no pod is in it, and the other replica, or the next one, promotes; after
// the promotion nothing is left to do. All that a decision needs is in the labels and in
// the responses of the nodes, so the next replica finishes what was begun. What a replica
// remembers of its own demotions is lost with it, which costs two patches at the most.
//
// A pod is replaced by one of the same name: observations are kept by UID, so the new
// pod was not probed yet, and patches for the old one are refused. A container that
// was started anew was not probed yet either.
package routing
