package tokenizer

import (
	"hash/maphash"
	"strings"
	"sync"
)

// The cache of words holds at most shards × shardWords words of at most cachedWordBytes bytes: in
// the order of 10 MiB if every word is as long as that, a quarter of it for ordinary text.
const (
	cacheShards     = 16 // a power of two
	cacheShardWords = 4096
	cachedWordBytes = 64
)

// wordCache remembers the ids of words. The zero value is ready. A shard that is full is emptied:
// the words of the text at hand are back after one use each, and nothing has to be tracked.
type wordCache struct {
	once   sync.Once
	seed   maphash.Seed
	shards [cacheShards]cacheShard
}

type cacheShard struct {
	mu    sync.RWMutex
	words map[string][]int32
}

func (c *wordCache) shard(word string) *cacheShard {
	c.once.Do(func() { c.seed = maphash.MakeSeed() })
	return &c.shards[maphash.String(c.seed, word)&(cacheShards-1)]
}

// get returns ids that must not be changed.
func (c *wordCache) get(word string) ([]int32, bool) {
	if len(word) > cachedWordBytes {
		return nil, false
	}
	s := c.shard(word)
	s.mu.RLock()
	ids, ok := s.words[word]
	s.mu.RUnlock()
	return ids, ok
}

// put copies both of its arguments.
func (c *wordCache) put(word string, ids []int32) {
	if len(word) > cachedWordBytes {
		return
	}
	word, ids = strings.Clone(word), append([]int32(nil), ids...)
	s := c.shard(word)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.words == nil || len(s.words) >= cacheShardWords {
		s.words = make(map[string][]int32)
	}
	s.words[word] = ids
}
