import torch
from torch import Tensor, nn
from torch.nn import functional as F
from wordsight.model.config import *
from wordsight.model.vit import VisionTransformer
from wordsight.model.transformer import Transformer
class CLIP(nn.Module):
    def __init__(self, config):
        super().__init__()
        text=config.text
        self.visual=VisionTransformer(config.image, config.embed_dim, config.activation)
        self.token_embedding=nn.Embedding(text.vocabulary_size,text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.transformer = Transformer(text.width, text.heads, text.layers, config.activation)
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.image_chunk=10**9; self.text_groups=1
    def encode_image(self, p):
        if len(p)<=self.image_chunk: return self.visual(p)
        return torch.cat([self.visual(q) for q in p.split(self.image_chunk)])
    def encode_text(self, ids):
        end=ids.argmax(-1)
        lengths=end+1
        order=lengths.argsort()
        groups=order.chunk(self.text_groups)
        ext=[int(lengths[g].max()) for g in groups]
        flat=torch.cat([ids[g,:l].flatten() for g,l in zip(groups,ext)])
        emb=self.token_embedding(flat).split([len(g)*l for g,l in zip(groups,ext)])
        out=[]
        for g,l,e in zip(groups,ext,emb):
            x=e.view(len(g),l,-1)+self.positional_embedding[:l]
            out.append(self.transformer(x,end[g]))
        x=torch.cat(out)[order.argsort()]
        return self.ln_final(x)@self.text_projection
    def forward(self, p, ids):
        return F.normalize(self.encode_image(p),dim=-1), F.normalize(self.encode_text(ids),dim=-1), self.logit_scale.exp()
