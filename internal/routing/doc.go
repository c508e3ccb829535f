// Package routing keeps the active label on the pod of the active Vault node,
// so that the Service always points at it.
//
// # Why two active nodes cannot be behind the Service
//
// What keeps the data safe is Vault's own lock in the storage, which has one
// holder. This package decides where clients are sent, and argues so:
//
//  1. A node is promoted only when it says that it is active and no other node
//     that stays says so ([Decide]). Two claims contradict the lock, so neither
//     is believed.
//  2. All other pods that are not being deleted lose the label before. Only when
//     the API server has accepted that, or has no such pod any more, the promotion
//     follows. An error in between leaves nobody in the Service, and never two.
//  3. Right before the promotion the node is asked once more and the labelled
//     pods are read from the API server, because what is known may be a moment
//     old and another replica may have acted on it.
//  4. A patch names the UID of its pod, so it cannot hit another one.
//
// One gap is left, since no write can span two pods: two replicas that promote
// two different nodes in the same moment. The lock has changed hands between the
// two questions then, so one of the two nodes is standby already and forwards
// what it is asked (https://developer.hashicorp.com/vault/docs/concepts/ha). The
// gap is no wider than the time limit of a reconciliation; the events of the two
// patches make both replicas look again, and the standby loses the label.
//
// # What happens when a fact is missing
//
// A node that was not asked yet keeps its label, and nobody is promoted beside
// it until it was asked.
//
// A node that does not answer loses its label as soon as any other node of the
// Vault answers. While none does, the labels stay: it may be the operator that
// is cut off, or the storage that is away, and no other node is known that could
// serve. But a node that cannot even be connected to loses its label when another
// can: its machine is lost, and the others wait for the storage, which is about to
// elect a leader.
//
// The API server is away, or refuses: nothing can be written, so the Service
// stays as it is. Nodes are asked all the same, and everything is tried again
// at least once a second. A patch whose answer was lost is made again, which
// changes nothing.
//
// The cache is late: a label that it shows and that is gone costs a patch that
// changes nothing; one that it does not show yet is found by the read in 3; a
// pod that it does not show yet can have the label only from another replica,
// which is the same. The event that makes it current brings the next decision.
//
// Two replicas act at once: they decide the same from the same answers, and
// each patch of one is a no-op for the other. When they are answered differently,
// because one cannot reach a node, they undo each other's label for as long as
// that lasts; by 2 and 3 they never add one to another.
//
// The operator dies: before the demotion the Service is as it was; between
// demotion and promotion nobody is in it, and the other replica, or the next
// one, promotes; after the promotion nothing is left to do. All that a decision
// is based on is in the labels and in the answers of the nodes, so whoever comes
// next finishes what was begun.
//
// A pod is replaced by one of the same name: answers are kept by UID, so the new
// pod was not asked yet, and patches for the old one are refused.
package routing
