"""The text that a text model has read before its first byte ("Primer" of ``docs/format.md``)."""

PRIMER = (
    b"conv1.weight bn1.weight bn1.bias layer1.0.conv1.weight layer1.0.bn1.weight layer1.0.bn1.bias layer1."
    b"0.conv2.weight layer1.0.bn2.weight layer1.0.bn2.bias layer1.0.conv3.weight layer1.0.bn3.weight layer"
    b"1.0.bn3.bias layer2.0.downsample.0.weight layer2.0.downsample.1.weight layer2.0.downsample.1.bias la"
    b"yer2.1.conv1.weight layer3.2.bn1.bias layer4.1.bn2.bias fc.weight fc.bias linear.weight linear.bias "
    b"classifier.1.weight classifier.1.bias head.weight features.0.0.weight features.0.1.weight features.0"
    b".1.bias features.1.conv.0.0.weight features.1.conv.0.1.weight features.1.conv.0.1.bias features.1.co"
    b"nv.1.weight features.1.conv.2.bias backbone.body.layer1.0.conv1.weight backbone.fpn.inner_blocks.0.0"
    b".weight backbone.fpn.layer_blocks.0.0.bias rpn.head.conv.0.0.weight rpn.head.cls_logits.weight rpn.h"
    b"ead.bbox_pred.bias roi_heads.box_head.fc6.weight roi_heads.box_predictor.cls_score.weight roi_heads."
    b"mask_head.0.0.weight roi_heads.mask_predictor.mask_fcn_logits.weight blocks.0.0.conv_dw.weight block"
    b"s.0.0.bn1.running_mean running_var num_batches_tracked conv_pw.weight se.conv_reduce.weight conv_ste"
    b'm.weight conv_head.weight {"model":{"name":"torchvision:resnet18","arguments":{}},"task":"classifica'
    b'tion","labels":["0","1"],"preprocessing":{"input_shape":[3,224,224],"mean":[0.485,0.456,0.406],"std"'
    b':[0.229,0.224,0.225]},"recipe":{"name":"name","seed":0,"model":{"name":"torchvision:resnet18","argum'
    b'ents":{},"weights":"weights/resnet18.safetensors","license":null},"data":{"name":"image-folder","pat'
    b'h":"imagenet","validation_size":0,"augment":true,"image_size":null,"mean":null,"std":null,"workers":'
    b'0},"ternary":{"sparsity":0.7,"threshold":"ratio","allocation":"global","group":"filter","scale":"lea'
    b'st-squares","gradient":"straight-through","pull":0.0,"sharpness":0.0,"include":["*"],"exclude":[],"f'
    b'irst_convolution":"float"},"schedule":{"dense_epochs":0.0,"prune_epochs":0.0,"ramp_epochs":3.0,"init'
    b'ial_sparsity":0.3,"freeze_epochs":1.0,"mask_interval":10},"optimizer":{"name":"sgd","learning_rate":'
    b'0.05,"momentum":0.9,"nesterov":false,"betas":[0.9,0.999],"weight_decay":0.0001,"warmup_epochs":0.5,"'
    b'gradient_clip":0.0},"distillation":null,"train":{"epochs":30,"batch_size":128,"precision":"bfloat16"'
    b',"channels_last":true,"compile":false,"label_smoothing":0.0,"ema_decay":0.0,"freeze_batch_norm":fals'
    b'e,"batch_norm_batches":100,"checkpoint_steps":200},"storage":{"float_dtype":"float16","int8":[],"cod'
    b'er":"small"}},"metrics":{"top1":70.0,"top5":90.0,"images":10000,"split":"test"},"source_sha256":"012'
    b'3456789abcdef"}'
)
