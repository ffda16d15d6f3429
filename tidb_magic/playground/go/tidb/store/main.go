// The playground's store: TiDB's own unistore served over gRPC, one process, data in one folder.
//
// TiDB's unistore was written to run inside tests. The wrapper below answers the calls that a cluster of
// several tidb-servers makes and unistore leaves unimplemented, and remembers who waits for which lock, so
// that INFORMATION_SCHEMA.DATA_LOCK_WAITS shows what a real TiKV would show.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pingcap/kvproto/pkg/deadlock"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/config"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/pd"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/server"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const (
	// A waiter is answered after this long and asks again: each time it is seen waiting.
	longestWait = 300 * time.Millisecond
	// A waiter that has not asked again for this long waits no more.
	forgetAfter = 3 * time.Second
)

type waiter struct {
	txn uint64
	key string
}

type note struct {
	entry *deadlock.WaitForEntry
	since time.Time
	seen  time.Time
}

type store struct {
	tikvpb.TikvServer
	mu    sync.Mutex
	notes map[waiter]note
}

// CheckLeader is asked by every tidb-server; unistore panics there.
func (s *store) CheckLeader(context.Context, *kvrpcpb.CheckLeaderRequest) (*kvrpcpb.CheckLeaderResponse, error) {
	return &kvrpcpb.CheckLeaderResponse{}, nil
}

// KvPessimisticLock notes who waits for whom. WaitTimeout: 0 is for ever, below 0 do not wait, else milliseconds.
func (s *store) KvPessimisticLock(ctx context.Context, req *kvrpcpb.PessimisticLockRequest) (*kvrpcpb.PessimisticLockResponse, error) {
	if req.WaitTimeout == 0 || req.WaitTimeout > longestWait.Milliseconds() {
		req.WaitTimeout = longestWait.Milliseconds()
	}
	resp, err := s.TikvServer.KvPessimisticLock(ctx, req)
	s.mu.Lock()
	defer s.mu.Unlock()
	waits := map[string]bool{}
	for _, e := range resp.GetErrors() {
		if lock := e.GetLocked(); lock != nil && req.WaitTimeout > 0 {
			waits[string(lock.Key)] = true
			s.remember(req, lock)
		}
	}
	for _, m := range req.GetMutations() {
		if !waits[string(m.Key)] {
			delete(s.notes, waiter{req.StartVersion, string(m.Key)})
		}
	}
	return resp, err
}

func (s *store) remember(req *kvrpcpb.PessimisticLockRequest, lock *kvrpcpb.LockInfo) {
	now := time.Now()
	at := waiter{req.StartVersion, string(lock.Key)}
	since := now
	if known, ok := s.notes[at]; ok && now.Sub(known.seen) < forgetAfter {
		since = known.since
	}
	s.notes[at] = note{
		entry: &deadlock.WaitForEntry{
			Txn:              req.StartVersion,
			WaitForTxn:       lock.LockVersion,
			Key:              lock.Key,
			ResourceGroupTag: req.GetContext().GetResourceGroupTag(),
		},
		since: since,
		seen:  now,
	}
}

// GetLockWaitInfo is what DATA_LOCK_WAITS reads.
func (s *store) GetLockWaitInfo(context.Context, *kvrpcpb.GetLockWaitInfoRequest) (*kvrpcpb.GetLockWaitInfoResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	resp := &kvrpcpb.GetLockWaitInfoResponse{}
	for at, n := range s.notes {
		if now.Sub(n.seen) > forgetAfter {
			delete(s.notes, at)
			continue
		}
		entry := *n.entry
		entry.WaitTime = uint64(now.Sub(n.since).Milliseconds())
		resp.Entries = append(resp.Entries, &entry)
	}
	return resp, nil
}

// recovered keeps a call that unistore does not implement from ending the store.
func recovered(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "%s panicked: %v\n%s", info.FullMethod, r, debug.Stack())
			err = status.Errorf(codes.Unimplemented, "%s: %v", info.FullMethod, r)
		}
	}()
	return handle(ctx, req)
}

func run(pdAddr, addr, path string) error {
	conf := config.DefaultConf
	conf.Server.PDAddr = pdAddr
	conf.Server.StoreAddr = addr
	conf.Server.Raft = false
	conf.Engine.DBPath = path
	conf.Engine.SyncWrite = false
	conf.Engine.VlogFileSize = 64 << 20
	if err := os.MkdirAll(filepath.Join(path, "kv"), 0o700); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	pdClient, err := pd.NewClient([]string{pdAddr}, "playground")
	if err != nil {
		return err
	}
	tikv, err := server.New(&conf, pdClient)
	if err != nil {
		return err
	}
	limit := 1 << 30
	srv := grpc.NewServer(grpc.UnaryInterceptor(recovered), grpc.MaxRecvMsgSize(limit), grpc.MaxSendMsgSize(limit))
	tikvpb.RegisterTikvServer(srv, &store{TikvServer: tikv, notes: map[waiter]note{}})
	deadlock.RegisterDeadlockServer(srv, tikv)
	// A tidb-server that found the store silent once asks here whether it is back.
	grpc_health_v1.RegisterHealthServer(srv, health.NewServer())
	return srv.Serve(listener)
}

func main() {
	pdAddr := flag.String("pd", "127.0.0.1:2379", "address of PD")
	addr := flag.String("addr", "127.0.0.1:20160", "address to serve on")
	path := flag.String("path", "", "folder for the data")
	flag.Parse()
	if err := run(*pdAddr, *addr, *path); err != nil {
		fmt.Fprintln(os.Stderr, "store:", err)
		os.Exit(1)
	}
}
