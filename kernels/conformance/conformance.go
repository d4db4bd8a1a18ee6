// Package conformance holds a kernels.Device to its contract: every op over random shapes against
// kernels/ref, each row's independence of the others bit by bit, numbers that are not finite or
// nearly zero, memory that must not change, and the order of streams, copies and events. All data
// goes through Pin and Copy, so that the suite runs on devices whose memory the host cannot
// reach.
package conformance

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"testing"

	"github.com/moering/moering/kernels"
	"github.com/moering/moering/kernels/quant"
	"github.com/moering/moering/kernels/ref"
)

// Opener opens a fresh device; the suite closes it.
type Opener func(testing.TB) kernels.Device

// Run checks the device that open returns. Shapes are random and their seeds fixed, so that a run
// repeats; a failure prints the check, the round and the shape.
func Run(t *testing.T, open Opener) {
	dev := open(t)
	oracle := ref.Open(ref.Options{})
	t.Logf("device: %+v", dev.Info())
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			if err := c.do(dev, oracle, t.Logf); err != nil {
				t.Fatal(err)
			}
		})
	}
	if err := errors.Join(dev.Close(), dev.Close(), oracle.Close()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

// check is one property of a device, tried in several rounds.
type check struct {
	name   string
	rounds int
	// round tries the property with random values from rng.
	round func(dev, oracle kernels.Device, rng *rand.Rand) error
}

// errDeclined marks a weight type that a device need not have, and has not.
var errDeclined = errors.New("the device declines the type")

// do runs the rounds until one fails.
func (c *check) do(dev, oracle kernels.Device, logf func(string, ...any)) error {
	h := fnv.New64a()
	h.Write([]byte(c.name))
	for i := range (c.rounds + roundsShare - 1) / roundsShare {
		err := c.round(dev, oracle, rand.New(rand.NewPCG(h.Sum64(), uint64(i))))
		if errors.Is(err, errDeclined) {
			logf("%s: %v", c.name, err)
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s, round %d: %w", c.name, i, err)
		}
	}
	return nil
}

// required are the weight types that every device multiplies with; optional those that it may
// decline with an ErrDevice.
var (
	required = []quant.Type{quant.F32, quant.F16, quant.BF16, quant.Q8_0, quant.Q4_0, quant.Q4_K,
		quant.Q5_K, quant.Q6_K}
	optional = []quant.Type{quant.Q4_1, quant.Q5_0, quant.Q5_1, quant.Q2_K, quant.Q3_K,
		quant.IQ4NL, quant.IQ4XS, quant.MXFP4}
)

func isRequired(t quant.Type) bool {
	for _, r := range required {
		if r == t {
			return true
		}
	}
	return false
}

func checks() []check {
	all := []check{
		{"memory", 1, memoryRound},
		{"copy", 12, copyRound},
		{"failure sticks to its stream", 2, failureRound},
		{"events order streams", 6, eventsRound},
		{"ring of sections", 3, ringRound},
		{"streams run at once", 2, togetherRound},
		{"norm", 30, normTrial.round},
		{"rope", 30, ropeTrial.round},
		{"gather", 10, gatherTrial.round},
		{"route", 40, routeTrial.round},
		{"combine", 40, combineTrial.round},
	}
	for _, kind := range cacheTypes {
		all = append(all, check{"kv append/" + kind.String(), 12, appendTrial(kind).round},
			check{"attention/" + kind.String(), 24, attentionTrial(kind).round})
	}
	for _, kinds := range [][]quant.Type{required, optional} {
		for _, kind := range kinds {
			name := kind.String()
			all = append(all,
				check{"embed/" + name, 4, embedTrial(kind).round},
				check{"matmul/" + name, 12, matMulTrial(kind, false).round},
				check{"matmul exact/" + name, 12, matMulTrial(kind, true).round},
				check{"extremes/" + name, 4, extremesTrial(kind, false).round},
				check{"extremes exact/" + name, 4, extremesTrial(kind, true).round},
				check{"experts/" + name, 5, expertsTrial(kind, false).round},
				check{"experts exact/" + name, 5, expertsTrial(kind, true).round})
		}
	}
	return append(all, check{"matmul/mixed types", 10, mixedTrial.round})
}
